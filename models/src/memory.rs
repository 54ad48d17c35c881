//! When the device has no memory for a batch: halves, and then a clear error.

use crate::{Error, Result};

/// What the CUDA driver and cuBLAS say when there is no memory.
const OUT_OF_MEMORY: [&str; 3] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
];

/// Whether an error says that the device has no memory left.
pub fn is_out_of_memory(error: &Error) -> bool {
    let Error::Candle(error) = error else {
        return false;
    };
    let said = error.to_string();
    OUT_OF_MEMORY.iter().any(|what| said.contains(what))
}

/// Runs `items` together; where the device has no memory for them, one half after the other, down to
/// single ones. Results are in the order of the items.
///
/// # Errors
/// Whatever `run` could not do; where a single item is too much, an error that says what helps.
pub fn in_halves<T, R>(items: &[T], run: &impl Fn(&[T]) -> Result<Vec<R>>) -> Result<Vec<R>> {
    match run(items) {
        Err(error) if is_out_of_memory(&error) => {
            if items.len() <= 1 {
                return Err(Error::Input(format!(
                    "the device has no memory for a single image: use a smaller --input-size, \
                     --precision bf16 or f16, smaller weights, or end other programs on it ({error})"
                )));
            }
            let (first, second) = items.split_at(items.len() / 2);
            let mut results = in_halves(first, run)?;
            results.extend(in_halves(second, run)?);
            Ok(results)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn no_memory() -> Error {
        // As cudarc's DriverError is shown, in the words of candle.
        candle_core::Error::Msg(
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".to_string(),
        )
        .into()
    }

    /// Runs at most `room` items at once, and notes the sizes that were tried.
    fn device(room: usize, tried: &RefCell<Vec<usize>>) -> impl Fn(&[u32]) -> Result<Vec<u32>> {
        move |items| {
            tried.borrow_mut().push(items.len());
            if items.len() > room {
                return Err(no_memory());
            }
            Ok(items.iter().map(|item| item * 10).collect())
        }
    }

    // By hand: 7 halves to 3 and 4, 3 to 1 and 2, 4 to 2 and 2.
    #[test]
    fn batches_halve_until_they_fit() {
        let tried = RefCell::default();
        let items = [0, 1, 2, 3, 4, 5, 6];
        let results = in_halves(&items, &device(2, &tried)).unwrap();
        assert_eq!(results, [0, 10, 20, 30, 40, 50, 60]);
        assert_eq!(*tried.borrow(), [7, 3, 1, 2, 4, 2, 2]);
    }

    #[test]
    fn a_single_item_that_does_not_fit_is_an_error_that_helps() {
        let tried = RefCell::default();
        let error = in_halves(&[1, 2], &device(0, &tried)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("--input-size") && text.contains("OUT_OF_MEMORY"),
            "{text}"
        );
        assert!(!is_out_of_memory(&error), "nobody above halves again");
        assert_eq!(*tried.borrow(), [2, 1]);
    }

    #[test]
    fn other_failures_are_not_tried_again() {
        let calls = RefCell::new(0);
        let lost = |_: &[u32]| -> Result<Vec<u32>> {
            *calls.borrow_mut() += 1;
            let said = "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")";
            Err(candle_core::Error::Msg(said.to_string()).into())
        };
        assert!(in_halves(&[1, 2, 3], &lost).is_err());
        assert_eq!(*calls.borrow(), 1);
    }
}
