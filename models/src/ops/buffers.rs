//! The allocator of a program with networks: large blocks that are given back are kept for the next
//! one who asks, so that a pass through a network takes none from the system after the first.
//!
//! The system would have to clear every page of a block that it gives anew, which takes a
//! twentieth of a large network's time. What is kept is bounded. Small blocks are the system's.

#![allow(unsafe_code)] // an allocator

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, PoisonError};

#[global_allocator]
static BUFFERS: Buffers = Buffers::new();

/// Blocks from this many bytes on are kept.
const LEAST: usize = 1 << 16;

/// Blocks beyond this many bytes are the system's.
const MOST: usize = 1 << 30;

/// Bytes that are kept at most, all blocks together.
const KEPT_BYTES: usize = 1 << 29;

/// Sizes between two powers of two: at most a fifth of a block is not used.
const STEPS: usize = 4;

/// Sizes that blocks have.
const SIZES: usize = (MOST.ilog2() - LEAST.ilog2()) as usize * STEPS + 1;

/// Blocks of one size that are kept at most.
const KEPT: usize = 24;

/// Vectors begin where lines of the cache do.
const ALIGNMENT: usize = 64;

/// From this many bytes on, blocks begin where pages of 2 MiB do, and ask for such.
const HUGE: usize = 1 << 21;

/// Blocks of one size that nobody uses.
struct Shelf {
    blocks: [*mut u8; KEPT],
    count: usize,
}

struct Shelves {
    shelves: [Shelf; SIZES],
    bytes: usize,
}

// SAFETY: blocks on a shelf are nobody's.
unsafe impl Send for Shelves {}

struct Buffers(Mutex<Shelves>);

/// The size that a block of `bytes` gets, by its number and in bytes; `None` if it is not kept.
fn size_of(layout: Layout) -> Option<(usize, Layout)> {
    let bytes = layout.size();
    if !(LEAST..=MOST).contains(&bytes) || layout.align() > ALIGNMENT {
        return None;
    }
    let power = bytes.ilog2();
    let step = (1 << power) / STEPS;
    let steps = (bytes - (1 << power)).div_ceil(step);
    let index = (power - LEAST.ilog2()) as usize * STEPS + steps;
    let bytes = (1 << power) + steps * step;
    let alignment = if bytes >= HUGE { HUGE } else { ALIGNMENT };
    Some((index, Layout::from_size_align(bytes, alignment).ok()?))
}

impl Buffers {
    const fn new() -> Self {
        const EMPTY: Shelf = Shelf {
            blocks: [std::ptr::null_mut(); KEPT],
            count: 0,
        };
        Self(Mutex::new(Shelves {
            shelves: [EMPTY; SIZES],
            bytes: 0,
        }))
    }

    fn take(&self, index: usize, layout: Layout) -> Option<*mut u8> {
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = shelves.shelves.get_mut(index)?;
        shelf.count = shelf.count.checked_sub(1)?;
        let block = shelf.blocks[shelf.count];
        shelves.bytes -= layout.size();
        Some(block)
    }

    /// Whether the block was kept.
    fn keep(&self, block: *mut u8, index: usize, layout: Layout) -> bool {
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelves.bytes + layout.size() > KEPT_BYTES {
            return false;
        }
        let Some(shelf) = shelves.shelves.get_mut(index) else {
            return false;
        };
        let Some(place) = shelf.blocks.get_mut(shelf.count) else {
            return false;
        };
        *place = block;
        shelf.count += 1;
        shelves.bytes += layout.size();
        true
    }
}

// SAFETY: blocks come from the system with the layout that they go back with, of the size that
// their own layout gives; a kept block is given to one who asks, once.
unsafe impl GlobalAlloc for Buffers {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((index, whole)) = size_of(layout) else {
            // SAFETY: by this function's contract.
            return unsafe { System.alloc(layout) };
        };
        if let Some(block) = self.take(index, whole) {
            return block;
        }
        // SAFETY: no size is zero.
        let block = unsafe { System.alloc(whole) };
        ask_for_huge_pages(block, whole);
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((index, whole)) = size_of(layout) else {
            // SAFETY: by this function's contract.
            return unsafe { System.alloc_zeroed(layout) };
        };
        if let Some(block) = self.take(index, whole) {
            // SAFETY: the block has that many bytes.
            unsafe { block.write_bytes(0, layout.size()) };
            return block;
        }
        // SAFETY: no size is zero.
        let block = unsafe { System.alloc_zeroed(whole) };
        ask_for_huge_pages(block, whole);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match size_of(layout) {
            Some((index, whole)) => {
                if !self.keep(block, index, whole) {
                    // SAFETY: the layout that it was taken with.
                    unsafe { System.dealloc(block, whole) };
                }
            }
            // SAFETY: by this function's contract.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(bytes, layout.align()) else {
            return std::ptr::null_mut();
        };
        match (size_of(layout), size_of(wanted)) {
            // SAFETY: by this function's contract.
            (None, None) => unsafe { System.realloc(block, layout, bytes) },
            (Some((before, _)), Some((after, _))) if before == after => block,
            // SAFETY: both blocks have as many bytes as are copied.
            _ => unsafe {
                let other = self.alloc(wanted);
                if !other.is_null() {
                    std::ptr::copy_nonoverlapping(block, other, layout.size().min(bytes));
                    self.dealloc(block, layout);
                }
                other
            },
        }
    }
}

/// Gives what is kept back to the system: after loading, which needs blocks that no pass needs.
pub fn release_buffers() {
    for index in 0..SIZES {
        // The layout of the size of that number.
        let power = 1 << (index / STEPS + LEAST.ilog2() as usize);
        let bytes = power + index % STEPS * (power / STEPS);
        let Some((_, layout)) = Layout::from_size_align(bytes, 1).ok().and_then(size_of) else {
            continue;
        };
        while let Some(block) = BUFFERS.take(index, layout) {
            // SAFETY: the layout that it was taken with; nobody has it.
            unsafe { System.dealloc(block, layout) };
        }
    }
}

/// Linux gives large pages to those who ask, by its usual setting: fewer places to look up.
fn ask_for_huge_pages(block: *mut u8, layout: Layout) {
    #[cfg(target_os = "linux")]
    {
        /// `MADV_HUGEPAGE` of `sys/mman.h`.
        const HUGE_PAGES: i32 = 14;
        unsafe extern "C" {
            fn madvise(start: *mut std::ffi::c_void, bytes: usize, advice: i32) -> i32;
        }
        if !block.is_null() && layout.size() >= HUGE {
            // SAFETY: a function of the C library that this program is linked to, on pages of a
            // block that is this program's; it is free not to follow.
            unsafe { madvise(block.cast(), layout.size() / HUGE * HUGE, HUGE_PAGES) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (block, layout);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // A block holds what is asked for, by at most a fifth more; the number gives the size.
        #[test]
        fn sizes_hold_what_is_asked_for(bytes in LEAST..=MOST) {
            let (index, layout) = size_of(Layout::from_size_align(bytes, 4).unwrap()).unwrap();
            prop_assert!(layout.size() >= bytes && layout.size() <= bytes + bytes / 4);
            prop_assert!(index < SIZES);
            prop_assert_eq!(size_of(Layout::from_size_align(layout.size(), 4).unwrap()).unwrap(), (index, layout));
        }
    }

    #[test]
    fn only_large_blocks_are_kept() {
        for bytes in [1, LEAST - 1, MOST + 1] {
            assert!(size_of(Layout::from_size_align(bytes, 8).unwrap()).is_none());
        }
        assert!(size_of(Layout::from_size_align(LEAST, 4096).unwrap()).is_none());
    }

    // An allocator of its own: other tests use the program's.
    #[test]
    fn a_block_comes_back_and_zeros_are_zeros() {
        let buffers = Buffers::new();
        let layout = Layout::from_size_align(LEAST + 5, 4).unwrap();
        // SAFETY: blocks are used within their layout and freed once.
        unsafe {
            let block = buffers.alloc(layout);
            block.write_bytes(7, layout.size());
            buffers.dealloc(block, layout);
            let again = buffers.alloc_zeroed(layout);
            assert_eq!(again, block);
            let bytes = std::slice::from_raw_parts(again, layout.size());
            assert!(bytes.iter().all(|byte| *byte == 0));
            // Grown within its size it stays where it is, beyond it moves with what it holds.
            again.write(9);
            let same = buffers.realloc(again, layout, LEAST + 9);
            assert_eq!(same, again);
            let layout = Layout::from_size_align(LEAST + 9, 4).unwrap();
            let moved = buffers.realloc(same, layout, 4 * LEAST);
            assert_eq!(moved.read(), 9);
            let large = Layout::from_size_align(4 * LEAST, 4).unwrap();
            let small = buffers.realloc(moved, large, 100);
            assert_eq!(small.read(), 9);
            buffers.dealloc(small, Layout::from_size_align(100, 4).unwrap());
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers = Buffers::new();
        let layout = Layout::from_size_align(LEAST, 4).unwrap();
        // SAFETY: every block is freed once.
        unsafe {
            let blocks: Vec<_> = (0..2 * KEPT).map(|_| buffers.alloc(layout)).collect();
            for block in blocks {
                buffers.dealloc(block, layout);
            }
        }
        assert_eq!(buffers.0.lock().unwrap().bytes, KEPT * LEAST);
    }
}
