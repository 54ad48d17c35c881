//! Asking for numbers while others are multiplied, so that they are in the second-level cache when their
//! turn comes: neither does memory wait for products then, nor products for memory.

#![allow(unsafe_code)] // prefetching

/// Numbers of a line of the cache.
const LINE: usize = 16;

/// Rows that come next, all of one length; they are asked for a few lines at a time.
#[derive(Default)]
pub struct Ahead {
    rows: Vec<*const f32>,
    /// Numbers of a row.
    length: usize,
    /// Lines that one request asks for, and those that were asked for.
    share: usize,
    asked: usize,
}

impl Ahead {
    /// Nothing comes next.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// Adds a row. Only its address is kept: nothing is read.
    pub fn expect(&mut self, row: &[f32]) {
        self.length = row.len();
        self.rows.push(row.as_ptr());
    }

    /// Lines of a row that begins anywhere in a line.
    fn lines(&self) -> usize {
        self.length / LINE + 1
    }

    /// Shares the lines out to so many requests.
    pub fn share(&mut self, requests: usize) {
        self.share = (self.rows.len() * self.lines()).div_ceil(requests.max(1));
        self.asked = 0;
    }

    /// Asks for the next lines.
    pub fn ask(&mut self) {
        let lines = self.lines();
        for _ in 0..self.share {
            let Some(row) = self.rows.get(self.asked / lines) else {
                return;
            };
            let at = (self.asked % lines * LINE).min(self.length.saturating_sub(1));
            prefetch(row.wrapping_add(at));
            self.asked += 1;
        }
    }
}

#[inline]
fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _: *const f32 = address;
}
