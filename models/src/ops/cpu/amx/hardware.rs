//! The tile registers of AMX.
//!
//! The compiler uses none of them by itself, as nothing here is compiled for that extension, so they
//! keep what they hold from one instruction to the next.

#![allow(unsafe_code)] // instructions

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::marker::PhantomData;

use super::{ROWS, WORDS};

/// Bytes of a row of a tile.
const ROW: usize = 4 * WORDS;

/// What `LDTILECFG` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight registers, whole.
static WHOLE: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: {
        let mut bytes = [0; 16];
        let mut tile = 0;
        while tile < 8 {
            bytes[tile] = ROW as u16;
            tile += 1;
        }
        bytes
    },
    rows: {
        let mut rows = [0; 16];
        let mut tile = 0;
        while tile < 8 {
            rows[tile] = ROWS as u8;
            tile += 1;
        }
        rows
    },
};

/// The registers of this thread, while they are configured.
pub struct Tiles(PhantomData<*const ()>); // of one thread, so not `Send`

impl Tiles {
    /// Only made by [`super::Tiles::Hardware`], that is where [`permitted`] says so; not while the
    /// thread has others.
    pub fn new() -> Self {
        // SAFETY: the machine has the instruction and the system allows it; the configuration is
        // a valid one.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, preserves_flags));
        }
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: as above; nobody uses the registers any more.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    }
}

impl super::Unit8 for Tiles {
    #[inline(always)]
    fn zero<const T: usize>(&mut self) {
        // SAFETY: a configured register.
        unsafe { asm!("tilezero tmm{}", const T, options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, words: *const u32, pitch: usize) {
        // SAFETY: a configured register; memory by this function's contract.
        unsafe {
            asm!(
                "tileloadd tmm{tile}, [{start} + {pitch} * 1]",
                tile = const T, start = in(reg) words, pitch = in(reg) 4 * pitch,
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    #[inline(always)]
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: three different configured registers of fitting shapes.
        unsafe {
            asm!(
                "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
                c = const C, a = const A, b = const B,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, words: *mut u32, pitch: usize) {
        // SAFETY: a configured register; memory by this function's contract.
        unsafe {
            asm!(
                "tilestored [{start} + {pitch} * 1], tmm{tile}",
                tile = const T, start = in(reg) words, pitch = in(reg) 4 * pitch,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Whether the machine has tiles of bfloat16 and the system lets this process use them.
pub fn permitted() -> bool {
    exists() && request()
}

/// By `CPUID`, and by what the system has switched on.
fn exists() -> bool {
    const OSXSAVE: u32 = 1 << 27; // leaf 1, ECX
    const AMX_BF16: u32 = 1 << 22; // leaf 7, EDX
    const AMX_TILE: u32 = 1 << 24; // leaf 7, EDX
    const TILE_STATE: u64 = 1 << 17 | 1 << 18; // XCR0
    let leaves = __cpuid_count(0, 0).eax;
    if leaves < 7 || __cpuid_count(1, 0).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    // SAFETY: `XGETBV` is there where the system has switched on what it tells about.
    let enabled = unsafe { xcr0() };
    features & AMX_BF16 != 0 && features & AMX_TILE != 0 && enabled & TILE_STATE == TILE_STATE
}

/// # Safety
/// The machine has `XGETBV`.
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: by this function's contract; register 0 is always there.
    unsafe { _xgetbv(0) }
}

/// Linux gives room for tiles only to processes that ask, as all signal frames grow by it; other
/// systems are not asked.
fn request() -> bool {
    #[cfg(target_os = "linux")]
    {
        use std::ffi::c_long;
        const SYS_ARCH_PRCTL: c_long = 158;
        const ARCH_REQ_XCOMP_PERM: c_long = 0x1023;
        const XFEATURE_XTILEDATA: c_long = 18;
        unsafe extern "C" {
            fn syscall(number: c_long, ...) -> c_long;
        }
        // SAFETY: a function of the C library that this program is linked to; the call changes
        // nothing but the permission.
        unsafe { syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}
