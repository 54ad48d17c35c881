//! Which vector units the machine has, and how kernels are compiled for them.
//!
//! Safe Rust loops are vectorised by the compiler for the features of the function that they are
//! inlined into; which copy runs is decided at run time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Vector units that kernels are written for, the widest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every machine of the target has.
    Plain = 1,
    /// NEON, which every 64-bit ARM has.
    #[cfg(target_arch = "aarch64")]
    Neon = 2,
    /// AVX2 with fused multiply-add.
    Avx2 = 3,
    /// AVX-512 with its byte, word, double word and length extensions.
    Avx512 = 4,
}

/// The environment variable that keeps wider units from being used: `plain`, `avx2`, or `avx512`,
/// which allows all but tiles.
const VARIABLE: &str = "MTMC_VECTORS";

/// The widest units that the machine has and the environment variable `MTMC_VECTORS` allows.
pub fn level() -> Level {
    /// A [`Level`], or 0 before the first question.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Ordering::Relaxed) {
        1 => return Level::Plain,
        #[cfg(target_arch = "aarch64")]
        2 => return Level::Neon,
        3 => return Level::Avx2,
        4 => return Level::Avx512,
        _ => {}
    }
    let most = match std::env::var(VARIABLE).as_deref() {
        Ok("plain") => Level::Plain,
        Ok("avx2") => Level::Avx2,
        _ => Level::Avx512,
    };
    let level = machine().min(most);
    KNOWN.store(level as u8, Ordering::Relaxed);
    level
}

/// Whether there are tiles too, see [`super::amx`], and the environment variable allows them.
pub fn tiles() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let most = std::env::var(VARIABLE);
        most.as_deref() != Ok("avx512") && level() == Level::Avx512 && super::amx::permitted()
    })
}

/// The widest units that the machine has.
pub fn machine() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let fused = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        if fused && wide {
            return Level::Avx512;
        }
        if fused {
            return Level::Avx2;
        }
    }
    #[cfg(target_arch = "aarch64")]
    return Level::Neon;
    #[cfg(not(target_arch = "aarch64"))]
    Level::Plain
}

/// Which of sixteen neighbours from `start` on lie within `0..size`: a mask of AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn within(start: isize, size: usize) -> u16 {
    const LANES: isize = u16::BITS as isize;
    let before = (-start).clamp(0, LANES) as u32;
    let after = (start + LANES - size as isize).clamp(0, LANES) as u32;
    if before + after >= u16::BITS {
        return 0;
    }
    (u16::MAX << before) & (u16::MAX >> after)
}

/// Declares `fn $name(..)` that runs `$body`, an `#[inline(always)]` function of the same
/// signature, compiled for AVX-512, for AVX2 with FMA, or for the target's baseline.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $vis fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
                fn avx512($($arg: $ty),*) {
                    $body($($arg),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) {
                    $body($($arg),*);
                }
                match $crate::ops::cpu::simd::level() {
                    // SAFETY: the machine has the features of its level.
                    $crate::ops::cpu::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::ops::cpu::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::cpu::simd::Level::Plain => {}
                }
            }
            $body($($arg),*);
        }
    };
}

pub(crate) use dispatch;
