//! File names of DukeMTMC-reID and MSMT17, as Market-1501's names would say the same.

use mtmc_tools::dataset::market1501::ImageName;

/// What is said of images that are not named as DukeMTMC-reID's.
pub(super) const DUKE_MISNAMED: &str =
    "images that are not named PERSON_cCAMERA_fFRAME.jpg (as 0001_c2_f0046182.jpg)";

/// Reads `0001_c2_f0046182.jpg` (Ristani et al., "Performance Measures and a Data Set for
/// Multi-Target, Multi-Camera Tracking", 2016; Zheng et al., ICCV 2017): person 1, camera 2.
pub(super) fn duke(name: &str) -> Option<ImageName> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let mut parts = stem.split('_');
    let name = ImageName {
        id: i64::from(number(parts.next()?)?),
        camera: number(parts.next()?.strip_prefix('c')?)?,
        sequence: 1,
        frame: number(parts.next()?.strip_prefix('f')?)?,
        bbox: 0,
    };
    let complete = parts.next().is_none() && name.camera > 0 && name.id > 0;
    complete.then_some(name)
}

/// Reads `0000/0000_000_01_0303morning_0008_0.jpg` of MSMT17 (Wei et al., CVPR 2018) as its lists
/// name it; `person` is the list's. MSMT17 counts people from 0, which is no person here, so IDs are
/// one higher.
pub(super) fn msmt17(path: &str, person: u32) -> Option<ImageName> {
    let name = path.rsplit('/').next()?;
    let (stem, _) = name.rsplit_once('.')?;
    let parts: Vec<&str> = stem.split('_').collect();
    let &[_, index, camera, _, _, bbox] = parts.as_slice() else {
        return None;
    };
    let name = ImageName {
        id: i64::from(person) + 1,
        camera: number(camera)?,
        sequence: 1,
        frame: number(index)?,
        bbox: number(bbox)?,
    };
    (name.camera > 0).then_some(name)
}

/// Digits alone: no sign, no blank.
fn number(digits: &str) -> Option<u32> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Names as the data sets' own descriptions give them.
    #[test]
    fn names_are_read() {
        let name = duke("0001_c2_f0046182.jpg").unwrap();
        assert_eq!((name.id, name.camera, name.frame), (1, 2, 46_182));
        let name = msmt17("0012/0012_034_15_0303morning_0008_1.jpg", 12).unwrap();
        assert_eq!(
            (name.id, name.camera, name.frame, name.bbox),
            (13, 15, 34, 1)
        );
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "0002_c1s1_000451_03.jpg",
            "0001_c0_f1.jpg",
            "0001_c2_46182.jpg",
            "x.jpg",
            "",
        ] {
            assert_eq!(duke(name), None, "{name}");
        }
        for name in [
            "0000_000_01_0303morning_0008.jpg",
            "0000_000_00_x_0008_0.jpg",
            "",
            "a/b",
        ] {
            assert_eq!(msmt17(name, 0), None, "{name}");
        }
    }
}
