//! The keys below a prefix in natural order, from listing pages that come in the order of bytes.
//!
//! A store lists `f1, f10, f2`; frames are wanted as `f1, f2, f10`. Where the first page shows
//! that both orders agree (names of one shape, with leading zeros or with times since 1970), keys
//! pass through page by page. Otherwise up to a window of keys is looked at before the first is
//! given. Either way no key is given that belongs before one that was given already: that is an
//! error, not a frame in the wrong place.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::path::Path;

use super::super::folder::natural_order;
use super::super::image_file::has_image_ending;

/// Digits from which on a number without leading zeros is taken for a time: seconds since 1970
/// have ten, and will until 2286.
const TIME_DIGITS: usize = 10;

/// An object as the listing tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: String,
    /// Its size in bytes when it was listed, if the listing tells.
    pub(super) size: Option<u64>,
}

impl Ord for Listed {
    fn cmp(&self, other: &Self) -> Ordering {
        natural_order(&self.key, &other.key)
    }
}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How far a listing was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Number of the last frame that was passed; 0 before the first.
    pub(super) number: u64,
    /// Its key.
    pub(super) key: Option<String>,
    /// The listing may start right behind that key.
    pub(super) in_listing_order: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Before the first image.
    Unknown,
    /// The order of the listing is the natural one.
    Listing,
    /// Keys have to be sorted.
    Sorted,
}

/// A key with the number of its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) listed: Listed,
    in_listing_order: bool,
}

impl Numbered {
    /// The position behind it.
    pub(super) fn position(&self) -> Position {
        Position {
            number: self.number,
            key: Some(self.listed.key.clone()),
            in_listing_order: self.in_listing_order,
        }
    }
}

/// Puts listed keys into natural order and numbers them.
#[derive(Debug)]
pub(super) struct Keys {
    waiting: BinaryHeap<Reverse<Listed>>,
    order: Order,
    /// What other keys must look like for the order of the listing to be the natural one.
    shape: Option<String>,
    window: usize,
    complete: bool,
    number: u64,
    last: Option<String>,
    /// Keys up to this one were passed by an earlier listing.
    passed: Option<String>,
}

impl Keys {
    /// Keys behind `position`; `window` is the most that wait to be sorted.
    pub(super) fn behind(position: &Position, window: usize) -> Self {
        let key = position.key.clone();
        Self {
            waiting: BinaryHeap::new(),
            order: Order::Unknown,
            shape: None,
            window,
            complete: false,
            number: position.number,
            last: key.clone().filter(|_| position.in_listing_order),
            passed: key.filter(|_| !position.in_listing_order),
        }
    }

    /// True while another page is needed before [`Keys::pop`].
    pub(super) fn wants_page(&self) -> bool {
        let look_ahead = match self.order {
            Order::Unknown | Order::Listing => 1,
            Order::Sorted => self.window,
        };
        !self.complete && self.waiting.len() < look_ahead
    }

    /// Takes the next page of the listing; what is no image is dropped.
    pub(super) fn push(&mut self, mut page: Vec<Listed>, last_page: bool) {
        page.retain(|listed| has_image_ending(Path::new(&listed.key)));
        self.complete = last_page;
        if self.order == Order::Unknown
            && let (Some(first), Some(last)) = (page.first(), page.last())
        {
            self.shape = Some(first.key.clone());
            self.order = match counts_with_zeros(&first.key, &last.key) {
                true => Order::Listing,
                false => Order::Sorted,
            };
        }
        if self.order == Order::Listing
            && let Some(shape) = &self.shape
            && !page.iter().all(|listed| same_shape(shape, &listed.key))
        {
            self.order = Order::Sorted;
        }
        for listed in page {
            let before = |key: &String| natural_order(&listed.key, key) != Ordering::Greater;
            if !self.passed.as_ref().is_some_and(before) {
                self.waiting.push(Reverse(listed));
            }
        }
    }

    /// The next key, when no page is wanted; `None` at the end.
    ///
    /// # Errors
    /// When it belongs before the one that was given last.
    pub(super) fn pop(&mut self) -> Result<Option<Numbered>, String> {
        let Some(Reverse(listed)) = self.waiting.pop() else {
            return Ok(None);
        };
        if let Some(last) = &self.last
            && natural_order(&listed.key, last) != Ordering::Greater
        {
            return Err(format!(
                "`{}` comes before `{last}` by its number, but was listed too late to be put there: \
                 give the names' numbers leading zeros, or let more than {} keys be sorted \
                 (MTMC_S3_SORT_WINDOW)",
                listed.key, self.window
            ));
        }
        self.number += 1;
        self.last = Some(listed.key.clone());
        Ok(Some(Numbered {
            number: self.number,
            listed,
            in_listing_order: self.order == Order::Listing,
        }))
    }

    /// True when nothing waits and nothing more comes.
    pub(super) fn is_empty(&self) -> bool {
        self.complete && self.waiting.is_empty()
    }

    /// The position behind the key that was given last.
    pub(super) fn position(&self) -> Position {
        Position {
            number: self.number,
            key: self.last.clone().or_else(|| self.passed.clone()),
            in_listing_order: self.order == Order::Listing,
        }
    }

    /// Number of all frames, once the listing is complete.
    pub(super) fn total(&self) -> Option<u64> {
        self.complete
            .then(|| self.number + self.waiting.len() as u64)
    }
}

/// True when digits stand at the same places, so that the order of bytes is the natural one.
fn same_shape(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    for (x, y) in a.iter().zip(b) {
        if x.is_ascii_digit() != y.is_ascii_digit() {
            return false;
        }
    }
    true
}

/// True when the number in which the first and the last key of a page differ has leading zeros,
/// or as many digits as times have: then it has as many digits in all other keys.
fn counts_with_zeros(first: &str, last: &str) -> bool {
    let (a, b) = (first.as_bytes(), last.as_bytes());
    let Some(difference) = a.iter().zip(b).position(|(x, y)| x != y) else {
        return false;
    };
    if !a[difference].is_ascii_digit() {
        return false;
    }
    let mut start = difference;
    while start > 0 && a[start - 1].is_ascii_digit() {
        start -= 1;
    }
    let mut end = difference;
    while end < a.len() && a[end].is_ascii_digit() {
        end += 1;
    }
    a[start] == b'0' || end - start >= TIME_DIGITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listed(key: &str) -> Listed {
        Listed {
            key: key.to_string(),
            size: Some(1),
        }
    }

    /// Lists `names` as a store would; the keys given, and the pages read before the first.
    fn run(
        mut names: Vec<String>,
        keys: &mut Keys,
        page: usize,
    ) -> Result<(Vec<String>, usize), String> {
        names.sort();
        let mut pages: Vec<Vec<Listed>> = names
            .chunks(page)
            .map(|names| names.iter().map(|name| listed(name)).collect())
            .collect();
        pages.reverse();
        let (mut given, mut read, mut before_first) = (Vec::new(), 0, 0);
        loop {
            while keys.wants_page() {
                let next = pages.pop().unwrap_or_default();
                keys.push(next, pages.is_empty());
                read += 1;
            }
            if given.is_empty() {
                before_first = read;
            }
            let Some(next) = keys.pop()? else {
                return Ok((given, before_first));
            };
            given.push(next.listed.key);
            assert_eq!(next.number, given.len() as u64);
        }
    }

    fn fresh(window: usize) -> Keys {
        Keys::behind(&Position::default(), window)
    }

    fn names(format: impl Fn(u64) -> String, numbers: std::ops::Range<u64>) -> Vec<String> {
        numbers.map(format).collect()
    }

    #[test]
    fn leading_zeros_need_one_page() {
        let expected = names(|n| format!("cam/{n:06}.jpg"), 1..5001);
        let (given, pages) = run(expected.clone(), &mut fresh(1000), 100).unwrap();
        assert_eq!(given, expected);
        assert_eq!(pages, 1);
    }

    #[test]
    fn times_need_one_page() {
        let expected = names(|n| format!("{}.jpg", 1_700_000_000_000 + n * 33), 0..3000);
        let (given, pages) = run(expected.clone(), &mut fresh(1000), 100).unwrap();
        assert_eq!(given, expected);
        assert_eq!(pages, 1);
    }

    #[test]
    fn plain_numbers_are_sorted_within_the_window() {
        let expected = names(|n| format!("f{n}.jpg"), 1..2500);
        let mut keys = fresh(10_000);
        let (given, pages) = run(expected.clone(), &mut keys, 100).unwrap();
        assert_eq!(given, expected);
        assert_eq!(pages, 25);
        assert_eq!(keys.total(), Some(2499));
    }

    #[test]
    fn zeros_that_run_out_are_noticed() {
        // 0000 to 9999 have four digits; 10000 is listed between 1000 and 1001.
        let expected = names(|n| format!("f{n:04}.jpg"), 0..12_000);
        let (given, pages) = run(expected.clone(), &mut fresh(20_000), 100).unwrap();
        assert_eq!(given, expected);
        assert_eq!(pages, 1);
    }

    #[test]
    fn what_the_window_cannot_sort_is_an_error() {
        // Before f11 are listed f1, f10 and all that begin with f10: 1 + 1 + 10 + 100 + 1000 keys.
        let many = names(|n| format!("f{n}.jpg"), 1..20_000);
        let message = run(many, &mut fresh(1000), 100).unwrap_err();
        assert!(message.contains("`f11.jpg` comes before `f10"), "{message}");
    }

    #[test]
    fn what_is_no_image_is_dropped() {
        let some = ["a/1.jpg", "a/2.PNG", "a/notes.txt", "a/seqinfo.ini", "a/x/"];
        let all = some.map(str::to_string).to_vec();
        let (given, _) = run(all, &mut fresh(1000), 2).unwrap();
        assert_eq!(given, ["a/1.jpg", "a/2.PNG"]);
    }

    #[test]
    fn a_listing_goes_on_behind_a_position() {
        // Sorted keys are listed again from the start.
        let all = names(|n| format!("f{n}.jpg"), 1..31);
        let mut keys = Keys::behind(
            &Position {
                number: 9,
                key: Some("f9.jpg".to_string()),
                in_listing_order: false,
            },
            1000,
        );
        for page in [&all[..9], &all[9..]] {
            keys.push(
                page.iter().map(|name| listed(name)).collect(),
                page.len() > 9,
            );
        }
        let next = keys.pop().unwrap().unwrap();
        assert_eq!((next.number, next.listed.key.as_str()), (10, "f10.jpg"));
        assert_eq!(keys.total(), Some(30));
    }

    proptest! {
        // The reference is the sort of the whole list, as a folder does it.
        #[test]
        fn the_order_is_that_of_a_folder(
            mut names in prop::collection::vec("(a|b|cam)?[0-9]{1,4}(_[0-9]{1,2})?\\.jpg", 1..200),
            page in 1..50_usize,
        ) {
            names.sort();
            names.dedup();
            let mut expected = names.clone();
            expected.sort_by(|a, b| natural_order(a, b));
            match run(names, &mut fresh(1000), page) {
                Ok((given, _)) => prop_assert_eq!(given, expected),
                // A page that misleads is told, never followed.
                Err(message) => prop_assert!(message.contains("comes before"), "{}", message),
            }
        }
    }
}
