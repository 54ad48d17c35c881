//! Asking for numbers while others are multiplied, so that they are in the second-level cache when their
//! turn comes: neither does memory wait for products then, nor products for memory.

#![allow(unsafe_code)] // prefetching

/// Numbers of a line of the cache.
const LINE: usize = 16;

/// Lines that come next; they are asked for a few at a time.
#[derive(Default)]
pub struct Ahead {
    lines: Vec<*const f32>,
    /// Lines that one request asks for, and those that were asked for.
    share: usize,
    asked: usize,
}

impl Ahead {
    /// Nothing comes next.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Adds a row, which begins anywhere in a line. Only addresses are kept: nothing is read.
    pub fn expect(&mut self, row: &[f32]) {
        let (whole, last) = (row.len() / LINE, row.len().saturating_sub(1));
        let start = row.as_ptr();
        let lines = (0..whole).map(|line| start.wrapping_add(line * LINE));
        self.lines.extend(lines);
        self.lines.push(start.wrapping_add(last));
    }

    /// Shares the lines out to so many requests.
    pub fn share(&mut self, requests: usize) {
        self.share = self.lines.len().div_ceil(requests.max(1));
        self.asked = 0;
    }

    /// The lines to ask for now: those that are next.
    pub fn take(&mut self) -> &[*const f32] {
        let first = self.asked.min(self.lines.len());
        let end = (first + self.share).min(self.lines.len());
        self.asked = end;
        &self.lines[first..end]
    }
}

/// Asks for lines at once.
#[inline]
pub fn ask(lines: &[*const f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in lines {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _: &[*const f32] = lines;
}

/// Asks at once for lines that will be read or written soon: `count` numbers from `start` on.
#[inline]
pub fn ask_at_once(start: *const f32, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..count).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _: (*const f32, usize) = (start, count);
}
