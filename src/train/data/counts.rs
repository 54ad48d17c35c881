//! How many images and people the published data sets have.

use std::collections::BTreeSet;

use mtmc_tools::dataset::market1501::{Image, JUNK};

use super::folders::{Found, Kind};

/// What was published of a data set.
struct Counts {
    name: &'static str,
    train_images: usize,
    train_people: usize,
    query_images: usize,
    /// Without junk.
    gallery_images: usize,
}

// Zheng et al., ICCV 2015.
const MARKET1501: Counts = Counts {
    name: "Market-1501",
    train_images: 12_936,
    train_people: 751,
    query_images: 3_368,
    gallery_images: 15_913,
};

// Zheng, Zheng and Yang, ICCV 2017.
const DUKE: Counts = Counts {
    name: "DukeMTMC-reID",
    train_images: 16_522,
    train_people: 702,
    query_images: 2_228,
    gallery_images: 17_661,
};

// Wei et al., CVPR 2018; training with its validation images, which show the same people.
const MSMT17: Counts = Counts {
    name: "MSMT17",
    train_images: 32_621,
    train_people: 1_041,
    query_images: 11_659,
    gallery_images: 82_161,
};

/// In what the folders differ from the published data set, one line a count.
pub(super) fn differences(found: &Found) -> Vec<String> {
    let expected = match found.kind {
        Kind::Market1501 | Kind::Prepared => &MARKET1501,
        Kind::DukeMtmc => &DUKE,
        Kind::Msmt17 => &MSMT17,
        Kind::Detect => return Vec::new(),
    };
    let learnt = || found.train.iter().chain(&found.val);
    let people: BTreeSet<i64> = learnt().map(|image| image.name.id).collect();
    let gallery = found.gallery.iter().filter(|image| is_no_junk(image));
    let counts = [
        ("training images", expected.train_images, learnt().count()),
        ("training people", expected.train_people, people.len()),
        ("queries", expected.query_images, found.query.len()),
        (
            "gallery images without junk",
            expected.gallery_images,
            gallery.count(),
        ),
    ];
    let wrong = counts
        .into_iter()
        .filter(|(_, expected, count)| expected != count);
    let lines = wrong.map(|(what, published, count)| {
        format!("{what}: {} has {published}, found {count}", expected.name)
    });
    lines.collect()
}

fn is_no_junk(image: &Image) -> bool {
    image.name.id != JUNK
}
