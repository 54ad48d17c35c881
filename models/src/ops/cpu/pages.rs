//! Large pages: a processor knows the places of a few thousand pages at once, and on a virtual machine
//! to look up another one takes as long as a hundred products. In pages of 4 KiB that is less than what
//! passes between the layers of a network.
//!
//! Nothing is lost where the system has none.

#![allow(unsafe_code)] // advice to the system

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use std::alloc::Layout;

/// Bytes of a large page.
const PAGE: usize = 2 << 20;

/// `MADV_HUGEPAGE`: large pages from now on.
const FROM_NOW_ON: i32 = 14;

/// `MADV_COLLAPSE`: of what there is already (since Linux 6.1).
const AT_ONCE: i32 = 25;

/// Asks the system to keep weights that every pass reads once in large pages: memory gives those
/// faster, as the processor looks ahead within a page alone.
pub fn keep_in_large_pages(words: &[u32]) {
    let range = words.as_ptr_range();
    advise(
        range.start.cast(),
        size_of_val(words),
        &[FROM_NOW_ON, AT_ONCE],
    );
}

/// Asks the system for large pages for the next `bytes` that the allocator takes from it, which has been
/// told to keep what is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn reserve_in_large_pages(bytes: usize) {
    let Ok(layout) = Layout::from_size_align(bytes, 16) else {
        return;
    };
    // SAFETY: the size is not 0, and what was allocated is given back; nothing is read or written.
    unsafe {
        let start = std::alloc::alloc(layout);
        if !start.is_null() {
            advise(start, bytes, &[FROM_NOW_ON]);
            std::alloc::dealloc(start, layout);
        }
    }
}

/// Gives advice on whole large pages.
fn advise(start: *const u8, bytes: usize, advice: &[i32]) {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn madvise(start: *mut u8, length: usize, advice: i32) -> i32;
        }
        let first = start.addr().next_multiple_of(PAGE);
        let end = (start.addr() + bytes) / PAGE * PAGE;
        if first >= end {
            return;
        }
        for advice in advice {
            // SAFETY: a function of the C library that this program is linked to; whole pages, which
            // keep what they hold.
            unsafe { madvise(start.with_addr(first).cast_mut(), end - first, *advice) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _: (*const u8, usize, &[i32], usize) = (start, bytes, advice, PAGE);
}
