//! A person in a pose, painted.

use std::f32::consts::{PI, TAU};

use super::canvas::{Canvas, Capsule, Colour, Point, scaled};
use super::person::{Bag, Cloth, Lower, Pattern, Person};
use crate::random::SplitMix64;

/// How a person stands in one picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pose {
    /// Where it looks, in radians: 0 at the camera, π away, π/2 to the right.
    heading: f32,
    /// Of the step, in radians.
    phase: f32,
    /// How far legs and arms swing, 0 standing.
    stride: f32,
    /// Middle of the feet and height, in pixels.
    foot: Point,
    height: f32,
    /// Lean to the side, of the height.
    lean: f32,
}

impl Pose {
    /// A pose in a picture of this size; detectors' boxes are never quite right.
    pub(super) fn new(width: f32, height: f32, random: &mut SplitMix64) -> Self {
        let heading = TAU * random.unit() as f32;
        let phase = TAU * random.unit() as f32;
        let stride = if random.unit() < 0.25 {
            0.1
        } else {
            0.5 + 0.5 * random.unit() as f32
        };
        let off =
            |random: &mut SplitMix64, spread: f32| spread * random.normal().clamp(-2.0, 2.0) as f32;
        Self {
            heading,
            phase,
            stride,
            foot: [
                width * (0.5 + off(random, 0.045)),
                height * (0.955 + off(random, 0.025)),
            ],
            height: height * (0.88 + off(random, 0.04)),
            lean: off(random, 0.015),
        }
    }

    /// A box that went wrong: most of the person is outside, or far too large.
    pub(super) fn miss(&mut self, width: f32, random: &mut SplitMix64) {
        if random.unit() < 0.5 {
            self.foot[0] += width * if random.unit() < 0.5 { 0.5 } else { -0.5 };
        } else {
            self.foot[1] += self.height * 0.8;
            self.height *= 1.8;
        }
    }

    /// A place on the body: `x` to the person's right-hand side of the picture, `y` 0 at the top of
    /// the head and 1 at the feet, both in body heights.
    fn at(&self, x: f32, y: f32) -> Point {
        [
            self.foot[0] + (x + self.lean * (1.0 - y)) * self.height,
            self.foot[1] - (1.0 - y) * self.height,
        ]
    }
}

/// A person in a pose on a canvas.
struct Figure<'a> {
    canvas: &'a mut Canvas,
    person: &'a Person,
    pose: Pose,
    /// Width of the body as seen: less from the side.
    breadth: f32,
    /// 1 at the camera, -1 away.
    facing: f32,
    /// Where the chest points to in the picture, -1..=1.
    side: f32,
}

/// Paints `person`.
pub(super) fn paint(canvas: &mut Canvas, person: &Person, mut pose: Pose) {
    pose.height *= person.build[0];
    let facing = pose.heading.cos();
    let side = pose.heading.sin();
    let mut figure = Figure {
        canvas,
        person,
        pose,
        breadth: person.build[1] * (0.62 + 0.38 * facing.abs()),
        facing,
        side,
    };
    let shadow = figure.pose.at(0.0, 0.995);
    let reach = 0.16 * figure.pose.height;
    figure.canvas.shade(shadow, [reach, reach * 0.16], 0.62);
    // Who looks away carries the backpack before everything else, who looks at us behind it.
    let before = facing < 0.3;
    if !before {
        figure.backpack();
    }
    let far_first = [-1.0, 1.0];
    figure.arm(far_first[0]);
    for leg in far_first {
        figure.leg(leg);
    }
    figure.skirt();
    figure.torso();
    figure.arm(far_first[1]);
    figure.strap();
    figure.head();
    if before {
        figure.backpack();
    }
    figure.hand_bag();
}

/// Round things are darker at their edges.
fn shaded(colour: Colour, across: f32) -> Colour {
    scaled(colour, 1.0 - 0.28 * across * across)
}

impl Figure<'_> {
    fn limb(&mut self, from: Point, to: Point, radii: [f32; 2], colour: Colour) {
        let height = self.pose.height;
        let shape = Capsule {
            from: self.pose.at(from[0], from[1]),
            to: self.pose.at(to[0], to[1]),
            radii: radii.map(|radius| radius * height),
        };
        self.canvas
            .capsule(&shape, |across, _| shaded(colour, across));
    }

    /// Colour of a cloth at a place across and along it.
    fn cloth(cloth: &Cloth, facing: f32, across: f32, along: f32) -> Colour {
        let odd = |count: f32, place: f32| (place * count * 2.0).floor().rem_euclid(2.0) > 0.5;
        let other = match cloth.pattern {
            Pattern::Plain => false,
            Pattern::Bands(count) => odd(count, along),
            Pattern::Stripes(count) => odd(count, (across + 1.0) / 2.0),
            Pattern::Checks(count) => odd(count, along) != odd(count, (across + 1.0) / 2.0),
            Pattern::TwoTone => along > 0.55,
            Pattern::Print => facing > 0.35 && across.abs() < 0.55 && (0.2..0.55).contains(&along),
        };
        shaded(if other { cloth.other } else { cloth.colour }, across)
    }

    fn torso(&mut self) {
        let half = 0.105 * self.breadth;
        let shape = Capsule {
            from: self.pose.at(0.0, 0.235),
            to: self.pose.at(0.0, 0.47),
            radii: [half * self.pose.height, half * 0.86 * self.pose.height],
        };
        let (upper, facing) = (self.person.upper, self.facing);
        self.canvas.capsule(&shape, |across, along| {
            Self::cloth(&upper, facing, across, along)
        });
    }

    fn arm(&mut self, which: f32) {
        let swing = which * (self.pose.phase.sin()) * self.pose.stride;
        let shoulder = which * 0.105 * self.breadth;
        let forward = 0.13 * swing * self.side;
        let elbow = [shoulder * 1.18 + forward * 0.5, 0.35];
        let hand = [shoulder * 1.22 + forward * 1.35, 0.47 - 0.02 * swing.abs()];
        let sleeve = shaded(self.person.upper.colour, 0.45);
        let below = if self.person.long_sleeves {
            sleeve
        } else {
            self.person.skin
        };
        self.limb(elbow, hand, [0.026, 0.022], below);
        self.limb(
            hand,
            [hand[0], hand[1] + 0.02],
            [0.022, 0.018],
            self.person.skin,
        );
        self.limb([shoulder, 0.205], elbow, [0.036, 0.029], sleeve);
    }

    fn leg(&mut self, which: f32) {
        let swing = which * self.pose.phase.cos() * self.pose.stride;
        let hip = which * 0.048 * self.breadth * (0.4 + 0.6 * self.facing.abs());
        let forward = 0.15 * swing * self.side;
        let lift = 0.025 * swing.max(0.0) * self.facing.abs();
        let knee = [hip + forward * 0.55, 0.73 - lift];
        let ankle = [hip + forward, 0.945 - lift];
        let toe = [ankle[0] + 0.05 * self.side, 0.975 - lift];
        let bare = self.person.lower != Lower::Trousers;
        let cloth = self.person.lower_cloth;
        let shin = if bare { self.person.skin } else { cloth.colour };
        self.limb(knee, ankle, [0.036, 0.026], shin);
        self.limb(ankle, toe, [0.024, 0.022], self.person.shoes);
        if self.person.lower == Lower::Skirt {
            self.limb([hip, 0.52], knee, [0.052, 0.04], self.person.skin);
            return;
        }
        let shape = Capsule {
            from: self.pose.at(hip, 0.52),
            to: self.pose.at(knee[0], knee[1]),
            radii: [0.056 * self.pose.height, 0.042 * self.pose.height],
        };
        let facing = self.facing;
        self.canvas.capsule(&shape, |across, along| {
            Self::cloth(&cloth, facing, across, along)
        });
    }

    fn skirt(&mut self) {
        if self.person.lower != Lower::Skirt {
            return;
        }
        let shape = Capsule {
            from: self.pose.at(0.0, 0.52),
            to: self.pose.at(0.0, 0.64),
            radii: [
                0.085 * self.breadth * self.pose.height,
                0.125 * self.breadth * self.pose.height,
            ],
        };
        let (cloth, facing) = (self.person.lower_cloth, self.facing);
        self.canvas.capsule(&shape, |across, along| {
            Self::cloth(&cloth, facing, across, along)
        });
    }

    fn head(&mut self) {
        let height = self.pose.height;
        let skin = self.person.skin;
        self.limb([0.0, 0.13], [0.0, 0.17], [0.03, 0.034], scaled(skin, 0.85));
        let middle = self.pose.at(0.012 * self.side, 0.075);
        let radii = [0.053 * height, 0.07 * height];
        let hair = self.person.hair;
        if self.person.long_hair {
            let back = self.pose.at(-0.02 * self.side, 0.1);
            self.canvas
                .ellipse(back, [0.066 * height, 0.095 * height], |u, _| {
                    shaded(hair, u)
                });
        }
        let (facing, side) = (self.facing, self.side);
        self.canvas.ellipse(middle, radii, |u, v| {
            // The face is where the head looks, below the hair.
            let turned = facing + 0.9 * u * side;
            let is_face = v > -0.3 && turned > 0.15;
            shaded(if is_face { skin } else { hair }, u)
        });
        if let Some(hat) = self.person.hat {
            let top = self.pose.at(0.012 * side, 0.035);
            self.canvas
                .ellipse(top, [0.06 * height, 0.04 * height], |u, _| shaded(hat, u));
        }
    }

    fn backpack(&mut self) {
        let Bag::Backpack(colour) = self.person.bag else {
            return;
        };
        let half = 0.075 * (0.6 + 0.4 * self.facing.abs());
        let x = -0.1 * self.side;
        let shape = Capsule {
            from: self.pose.at(x, 0.255),
            to: self.pose.at(x, 0.395),
            radii: [half * self.pose.height; 2],
        };
        self.canvas.capsule(&shape, |across, along| {
            let edge = (along - 0.6).abs() < 0.06;
            shaded(scaled(colour, if edge { 0.6 } else { 1.0 }), across)
        });
    }

    fn strap(&mut self) {
        let Bag::Shoulder(colour) = self.person.bag else {
            return;
        };
        let towards = if self.facing >= 0.0 { 1.0 } else { -1.0 };
        let hip = 0.1 * towards * self.breadth;
        self.limb([-hip * 0.8, 0.2], [hip, 0.47], [0.011, 0.011], colour);
        self.limb(
            [hip * 1.15, 0.485],
            [hip * 1.15, 0.54],
            [0.042, 0.046],
            colour,
        );
    }

    fn hand_bag(&mut self) {
        let Bag::Hand(colour) = self.person.bag else {
            return;
        };
        let towards = if (self.pose.heading - PI).abs() < PI / 2.0 {
            -1.0
        } else {
            1.0
        };
        let x = 0.14 * towards * self.breadth;
        self.limb([x, 0.49], [x, 0.53], [0.008, 0.008], colour);
        self.limb([x - 0.02, 0.57], [x + 0.02, 0.57], [0.04, 0.04], colour);
    }
}
