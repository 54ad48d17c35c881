//! Who is drawn: body, clothes, bag; the same wherever the person is seen.

use super::canvas::Colour;
use crate::random::SplitMix64;

/// Clothes' colours: few enough that many people share one.
const CLOTHES: [Colour; 14] = [
    [0.08, 0.08, 0.10], // black
    [0.90, 0.90, 0.88], // white
    [0.45, 0.46, 0.48], // grey
    [0.12, 0.16, 0.36], // navy
    [0.20, 0.38, 0.70], // blue
    [0.70, 0.12, 0.14], // red
    [0.48, 0.08, 0.14], // wine
    [0.16, 0.42, 0.22], // green
    [0.40, 0.42, 0.20], // olive
    [0.90, 0.75, 0.18], // yellow
    [0.88, 0.48, 0.14], // orange
    [0.72, 0.60, 0.44], // beige
    [0.36, 0.24, 0.16], // brown
    [0.75, 0.45, 0.60], // pink
];

const SKIN: [Colour; 5] = [
    [0.94, 0.80, 0.70],
    [0.86, 0.67, 0.54],
    [0.72, 0.52, 0.38],
    [0.52, 0.36, 0.26],
    [0.34, 0.23, 0.17],
];

const HAIR: [Colour; 6] = [
    [0.06, 0.05, 0.05],
    [0.22, 0.14, 0.09],
    [0.40, 0.26, 0.14],
    [0.74, 0.60, 0.36],
    [0.60, 0.60, 0.60],
    [0.48, 0.18, 0.10],
];

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pattern {
    Plain,
    /// Bands across, so many.
    Bands(f32),
    /// Stripes along, so many.
    Stripes(f32),
    Checks(f32),
    /// The lower part in the other colour.
    TwoTone,
    /// A print in front only.
    Print,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cloth {
    pub(super) colour: Colour,
    pub(super) other: Colour,
    pub(super) pattern: Pattern,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Lower {
    Trousers,
    /// Bare below the knee.
    Shorts,
    Skirt,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bag {
    None,
    /// Seen from behind and from the side.
    Backpack(Colour),
    /// At the left hand.
    Hand(Colour),
    /// A strap over the chest and the bag at the hip.
    Shoulder(Colour),
}

/// What does not change between a person's pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Person {
    pub(super) skin: Colour,
    pub(super) hair: Colour,
    pub(super) long_hair: bool,
    pub(super) hat: Option<Colour>,
    pub(super) upper: Cloth,
    pub(super) long_sleeves: bool,
    pub(super) lower: Lower,
    pub(super) lower_cloth: Cloth,
    pub(super) shoes: Colour,
    pub(super) bag: Bag,
    /// Height and width, of the average's.
    pub(super) build: [f32; 2],
}

impl Person {
    pub(super) fn new(random: &mut SplitMix64) -> Self {
        let skin = pick(&SKIN, random);
        let hair = pick(&HAIR, random);
        let upper = cloth(random, true);
        let lower_cloth = cloth(random, false);
        let lower = match random.below(10) {
            0..6 => Lower::Trousers,
            6..8 => Lower::Shorts,
            _ => Lower::Skirt,
        };
        let bag_colour = clothes_colour(random);
        let bag = match random.below(10) {
            0..5 => Bag::None,
            5..7 => Bag::Backpack(bag_colour),
            7..9 => Bag::Shoulder(bag_colour),
            _ => Bag::Hand(bag_colour),
        };
        let hat = clothes_colour(random);
        Self {
            skin,
            hair,
            long_hair: random.unit() < 0.35,
            hat: (random.unit() < 0.15).then_some(hat),
            upper,
            long_sleeves: random.unit() < 0.55,
            lower,
            lower_cloth,
            shoes: clothes_colour(random),
            bag,
            build: [
                0.93 + 0.12 * random.unit() as f32,
                0.85 + 0.35 * random.unit() as f32,
            ],
        }
    }
}

fn pick(colours: &[Colour], random: &mut SplitMix64) -> Colour {
    colours[random.below(colours.len())]
}

/// A colour of the palette, a little off.
fn clothes_colour(random: &mut SplitMix64) -> Colour {
    let colour = pick(&CLOTHES, random);
    colour.map(|value| (value + 0.06 * (random.unit() as f32 - 0.5)).clamp(0.02, 0.98))
}

fn cloth(random: &mut SplitMix64, is_upper: bool) -> Cloth {
    let colour = clothes_colour(random);
    let other = clothes_colour(random);
    let kinds = if is_upper { 12 } else { 24 };
    let pattern = match random.below(kinds) {
        0 | 1 => Pattern::Bands(3.0 + random.below(4) as f32),
        2 => Pattern::Stripes(2.0 + random.below(3) as f32),
        3 => Pattern::Checks(3.0 + random.below(3) as f32),
        4 if is_upper => Pattern::TwoTone,
        5 | 6 if is_upper => Pattern::Print,
        _ => Pattern::Plain,
    };
    Cloth {
        colour,
        other,
        pattern,
    }
}
