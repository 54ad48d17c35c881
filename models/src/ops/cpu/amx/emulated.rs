//! Tile registers in memory, multiplied as Intel's manual describes it: what the machine's are to be
//! compared with, and what stands for them where there are none.

#![allow(unsafe_code)] // operands by their places in memory

use super::{ROWS, WORDS};

/// Eight registers.
#[derive(Default)]
pub struct Tiles([[[u32; WORDS]; ROWS]; 8]);

/// A bfloat16 as f32; numbers too small for normal ones count as zero.
fn number(bits: u32) -> f32 {
    flushed(f32::from_bits(bits << 16))
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0 * x } else { x }
}

impl super::Unit8 for Tiles {
    fn zero<const T: usize>(&mut self) {
        self.0[T] = [[0; WORDS]; ROWS];
    }

    unsafe fn load<const T: usize>(&mut self, words: *const u32, pitch: usize) {
        for (row, register) in self.0[T].iter_mut().enumerate() {
            // SAFETY: by this function's contract.
            *register = unsafe { words.add(row * pitch).cast::<[u32; WORDS]>().read() };
        }
    }

    /// Sums of the first and of the second numbers of all pairs apart, then both together, then
    /// with what there was; each to the nearest, ties to even, without subnormal numbers.
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        for row in 0..ROWS {
            for column in 0..WORDS {
                let (mut first, mut second) = (0.0_f32, 0.0_f32);
                for step in 0..WORDS {
                    let (a, b) = (self.0[A][row][step], self.0[B][step][column]);
                    first = flushed(number(a & 0xFFFF).mul_add(number(b & 0xFFFF), first));
                    second = flushed(number(a >> 16).mul_add(number(b >> 16), second));
                }
                let sum = &mut self.0[C][row][column];
                let before = flushed(f32::from_bits(*sum));
                *sum = flushed(before + flushed(first + second)).to_bits();
            }
        }
    }

    unsafe fn store<const T: usize>(&mut self, words: *mut u32, pitch: usize) {
        for (row, register) in self.0[T].iter().enumerate() {
            // SAFETY: by this function's contract.
            unsafe {
                let words = words.add(row * pitch).cast::<[u32; WORDS]>();
                words.write(*register);
            }
        }
    }
}
