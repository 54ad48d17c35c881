//! Compiles a kernel several times, for the vector units that the machine may have.
//!
//! Plain loops are vectorised by the compiler for the features of the function that they are
//! inlined into; which copy runs is decided once, at run time. Numbers are the same in all copies:
//! the compiler neither fuses nor reorders floating-point operations.

/// Declares `fn $name<'a>(..)` that runs `$body`, an `#[inline(always)]` function of the same
/// signature, compiled for AVX-512, for AVX2, or for the target's baseline.
macro_rules! vectorised {
    (
        $(#[$meta:meta])*
        fn $name:ident<$life:lifetime>($($arg:ident: $ty:ty),* $(,)?) -> $out:ty = $body:path
    ) => {
        $(#[$meta])*
        fn $name<$life>($($arg: $ty),*) -> $out {
            // A closure would not do: its call is a function of its own, without the features.
            struct Call<$life> {
                $($arg: $ty),*
            }
            impl<$life> pulp::NullaryFnOnce for Call<$life> {
                type Output = $out;
                #[inline(always)]
                fn call(self) -> $out {
                    $body($(self.$arg),*)
                }
            }
            pulp::Arch::new().dispatch(Call { $($arg),* })
        }
    };
}

pub(super) use vectorised;
