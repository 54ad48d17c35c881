//! Vectors of f32 behind one interface, for kernels that are written once for all vector units.

#![allow(unsafe_code)] // vector instructions

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512i, _mm256_add_ps, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_max_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_add_ps,
    _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_max_ps, _mm512_set1_ps,
    _mm512_storeu_ps,
};

/// Some numbers that are taken together. All methods are inlined into functions that have the
/// instructions.
///
/// # Safety
/// The machine has the type's instructions; pointers lead to [`Lanes::COUNT`] numbers.
pub(super) trait Lanes: Copy {
    /// How many.
    const COUNT: usize;
    /// All the same.
    unsafe fn splat(number: f32) -> Self;
    /// Those at `from`, which need not be aligned.
    unsafe fn load(from: *const f32) -> Self;
    /// To `to`, which need not be aligned.
    unsafe fn store(self, to: *mut f32);
    /// `self + a · b`, rounded once where there is an instruction for that.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// Whether [`Lanes::dot`] is of integers, which are to become [`Lanes::numbers`].
    const INTEGERS: bool = false;
    /// `self` plus the products of operands: as [`Lanes::fma`], or of integers.
    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { self.fma(a, b) }
    }
    /// Sums of integers as numbers.
    #[inline(always)]
    unsafe fn numbers(self) -> Self {
        self
    }
    /// `self + other`.
    unsafe fn plus(self, other: Self) -> Self;
    /// The larger ones; `self` where it is no number.
    unsafe fn or_more(self, other: Self) -> Self;
}

/// The methods by intrinsics, in the trait's order.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($type:ty, $count:literal, $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident, $max:ident) => {
        impl Lanes for $type {
            const COUNT: usize = $count;
            #[inline(always)]
            unsafe fn splat(number: f32) -> Self {
                // SAFETY: by the trait's contract, here and below.
                unsafe { $splat(number) }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above.
                unsafe { $store(to, self) }
            }
            #[inline(always)]
            unsafe fn fma(self, a: Self, b: Self) -> Self {
                // SAFETY: as above.
                unsafe { $fma(a, b, self) }
            }
            #[inline(always)]
            unsafe fn plus(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $add(self, other) }
            }
            #[inline(always)]
            unsafe fn or_more(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $max(other, self) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes!(
    __m512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_max_ps
);

#[cfg(target_arch = "x86_64")]
lanes!(
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_max_ps
);

/// The same, but for [`Lanes::dot`]: every lane of its operands holds two integers of 16 bits, and of a sum one
/// of 32.
#[cfg(target_arch = "x86_64")]
macro_rules! integers {
    ($(#[$meta:meta])* $name:ident($type:ty), $words:ty, $dot:ident, $numbers:ident) => {
        $(#[$meta])*
        #[cfg(target_arch = "x86_64")]
        #[derive(Clone, Copy)]
        pub(super) struct $name($type);

        #[cfg(target_arch = "x86_64")]
        impl Lanes for $name {
            const COUNT: usize = <$type>::COUNT;
            const INTEGERS: bool = true;
            #[inline(always)]
            unsafe fn splat(number: f32) -> Self {
                // SAFETY: by the trait's contract, here and below.
                Self(unsafe { <$type>::splat(number) })
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above.
                Self(unsafe { <$type>::load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above.
                unsafe { self.0.store(to) }
            }
            #[inline(always)]
            unsafe fn fma(self, a: Self, b: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { self.0.fma(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn dot(self, a: Self, b: Self) -> Self {
                // SAFETY: as above; all are as large, and every pattern is valid.
                unsafe {
                    let words = |x| std::mem::transmute::<$type, $words>(x);
                    let sum = $dot(words(self.0), words(a.0), words(b.0));
                    Self(std::mem::transmute::<$words, $type>(sum))
                }
            }
            #[inline(always)]
            unsafe fn numbers(self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $numbers(std::mem::transmute::<$type, $words>(self.0)) })
            }
            #[inline(always)]
            unsafe fn plus(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { self.0.plus(other.0) })
            }
            #[inline(always)]
            unsafe fn or_more(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { self.0.or_more(other.0) })
            }
        }
    };
}

/// `vpdpwssd` by its name: of the intrinsic LLVM makes two instructions where it takes the sums that wait for each
/// other for what is slow, and these are twice as slow.
#[cfg(target_arch = "x86_64")]
macro_rules! multiply_and_add {
    ($name:ident, $words:ty, $register:ident, $features:literal) => {
        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = $features)]
        fn $name(mut sum: $words, a: $words, b: $words) -> $words {
            // SAFETY: the instruction is there, and touches registers alone.
            unsafe {
                std::arch::asm!(
                    "vpdpwssd {sum}, {a}, {b}",
                    sum = inout($register) sum,
                    a = in($register) a,
                    b = in($register) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sum
        }
    };
}

#[cfg(target_arch = "x86_64")]
multiply_and_add!(dot_512, __m512i, zmm_reg, "avx512f,avx512vnni");
#[cfg(target_arch = "x86_64")]
multiply_and_add!(dot_256, __m256i, ymm_reg, "avx512f,avx512vl,avx512vnni");

#[cfg(target_arch = "x86_64")]
integers!(
    /// Sixteen sums of products of integers: AVX512-VNNI.
    Integers512(__m512),
    __m512i,
    dot_512,
    _mm512_cvtepi32_ps
);

#[cfg(target_arch = "x86_64")]
integers!(
    /// Eight of them.
    Integers256(__m256),
    __m256i,
    dot_256,
    _mm256_cvtepi32_ps
);

/// What every machine has: the compiler makes vectors of it.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

impl Lanes for Portable {
    const COUNT: usize = 8;
    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        Self([number; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by the trait's contract.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // Where there is no instruction for it, a fused multiply-add is a slow call.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        let one = |lane: usize| {
            if fused {
                a.0[lane].mul_add(b.0[lane], self.0[lane])
            } else {
                a.0[lane] * b.0[lane] + self.0[lane]
            }
        };
        Self(std::array::from_fn(one))
    }
    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn or_more(self, other: Self) -> Self {
        self.with(other, |a, b| if b > a { b } else { a })
    }
}

/// Declares `unsafe fn $name(level, ..)` that runs `$body::<M>`, an `#[inline(always)]` function,
/// compiled for the vector units `M` of a level (see [`super::cells::Machine`]).
///
/// The machine must have `level`; what else the function needs, `$body` says.
macro_rules! by_level {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        $vis unsafe fn $name(level: $crate::ops::cpu::simd::Level, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::ops::cpu::simd::Level;
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
                unsafe fn avx512($($arg: $ty),*) {
                    // SAFETY: by the body's contract.
                    unsafe { $body::<$crate::ops::cpu::cells::Avx512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2($($arg: $ty),*) {
                    // SAFETY: by the body's contract.
                    unsafe { $body::<$crate::ops::cpu::cells::Avx2>($($arg),*) }
                }
                match level {
                    // SAFETY: the machine has the level.
                    Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    Level::Plain => {}
                }
            }
            let _ = level;
            // SAFETY: by the body's contract.
            unsafe { $body::<$crate::ops::cpu::cells::Baseline>($($arg),*) }
        }
    };
}

pub(super) use by_level;

/// `count` made-up numbers between -1 and 1.
#[cfg(test)]
pub(super) fn made_up_numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| number()).collect()
}

/// All levels that the machine has.
#[cfg(test)]
pub(super) fn levels() -> Vec<super::simd::Level> {
    use super::simd::{Level, machine};
    let all = [Level::Plain, Level::Avx2, Level::Avx512];
    all.into_iter()
        .filter(|level| *level <= machine())
        .collect()
}
