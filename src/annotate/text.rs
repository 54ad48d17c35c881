//! Lines of text: glyphs are rasterised once a size and kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ab_glyph::{Font, FontRef, PxScale, ScaleFont};
use epaint_default_fonts::HACK_REGULAR;
use image::{Rgb, RgbImage};

/// Glyphs that are kept; at more, all are dropped and made anew.
const MAX_GLYPHS: usize = 2048;

/// Renders text in the built-in font.
#[derive(Debug)]
pub(super) struct TextRenderer {
    /// `None` only if the built-in font cannot be parsed; there is no text then.
    font: Option<FontRef<'static>>,
    /// By character and size in pixels.
    glyphs: Mutex<HashMap<(char, u32), Arc<Glyph>>>,
}

/// How much of each pixel a character covers.
#[derive(Debug)]
struct Glyph {
    /// Left edge from the pen, upper edge from the line's top.
    left: i64,
    top: i64,
    width: usize,
    /// 0 is none, 255 all; `width` values a row.
    coverage: Vec<u8>,
    /// How far the pen moves on.
    advance: i64,
}

/// A laid-out line.
pub(super) struct Line {
    glyphs: Vec<Arc<Glyph>>,
    /// Width and height in pixels.
    pub(super) width: i64,
    pub(super) height: i64,
}

impl Default for TextRenderer {
    fn default() -> Self {
        Self {
            font: FontRef::try_from_slice(HACK_REGULAR).ok(),
            glyphs: Mutex::new(HashMap::new()),
        }
    }
}

impl TextRenderer {
    /// Lays out a line of characters `size` pixels high. Control characters are left out.
    pub(super) fn layout(&self, text: &str, size: u32) -> Line {
        let mut line = Line {
            glyphs: Vec::new(),
            width: 0,
            height: i64::from(size),
        };
        let Some(font) = &self.font else {
            return line;
        };
        // A panic while the map was held cannot leave it half changed in a way that matters.
        let mut glyphs = self.glyphs.lock().unwrap_or_else(PoisonError::into_inner);
        for character in text.chars().filter(|character| !character.is_control()) {
            if glyphs.len() >= MAX_GLYPHS {
                glyphs.clear();
            }
            let glyph = glyphs
                .entry((character, size))
                .or_insert_with(|| Arc::new(rasterise(font, character, size)));
            line.width += glyph.advance;
            line.glyphs.push(glyph.clone());
        }
        line
    }

    /// Draws a line with its upper left corner at `x`, `y`, blended over what is there.
    pub(super) fn draw(&self, image: &mut RgbImage, line: &Line, x: i64, y: i64, ink: Rgb<u8>) {
        let mut pen = x;
        for glyph in &line.glyphs {
            blend(image, glyph, pen + glyph.left, y + glyph.top, ink);
            pen += glyph.advance;
        }
    }
}

fn rasterise(font: &FontRef<'static>, character: char, size: u32) -> Glyph {
    let scaled = font.as_scaled(PxScale::from(size as f32));
    let glyph = scaled.scaled_glyph(character);
    let mut made = Glyph {
        left: 0,
        top: 0,
        width: 0,
        coverage: Vec::new(),
        advance: scaled.h_advance(glyph.id).round() as i64,
    };
    if let Some(outlined) = scaled.outline_glyph(glyph) {
        let bounds = outlined.px_bounds();
        made.left = bounds.min.x as i64;
        // Bounds count from the baseline, which lies the ascent below the line's top.
        made.top = (bounds.min.y + scaled.ascent()).round() as i64;
        made.width = bounds.width().ceil() as usize;
        made.coverage = vec![0; made.width * bounds.height().ceil() as usize];
        outlined.draw(|x, y, coverage| {
            let at = y as usize * made.width + x as usize;
            if let Some(pixel) = made.coverage.get_mut(at) {
                *pixel = (coverage.clamp(0.0, 1.0) * 255.0).round() as u8;
            }
        });
    }
    made
}

fn blend(image: &mut RgbImage, glyph: &Glyph, left: i64, top: i64, ink: Rgb<u8>) {
    if glyph.width == 0 {
        return;
    }
    for (row, coverage) in (top..).zip(glyph.coverage.chunks_exact(glyph.width)) {
        for (column, &coverage) in (left..).zip(coverage) {
            let (Ok(x), Ok(y)) = (u32::try_from(column), u32::try_from(row)) else {
                continue;
            };
            let Some(pixel) = image.get_pixel_mut_checked(x, y) else {
                continue;
            };
            let weight = u32::from(coverage);
            for (value, ink) in pixel.0.iter_mut().zip(ink.0) {
                let mixed = u32::from(*value) * (255 - weight) + u32::from(ink) * weight;
                *value = ((mixed + 127) / 255) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_font_is_there_and_monospaced() {
        let renderer = TextRenderer::default();
        let narrow = renderer.layout("iiii", 20);
        let wide = renderer.layout("MMMM", 20);
        assert!(narrow.width > 20, "{}", narrow.width);
        assert_eq!(narrow.width, wide.width);
        assert_eq!(renderer.layout("", 20).width, 0);
    }

    #[test]
    fn glyphs_are_kept_but_not_without_end() {
        let renderer = TextRenderer::default();
        renderer.layout("aaab", 20);
        assert_eq!(renderer.glyphs.lock().unwrap().len(), 2);
        for size in 10..100 {
            let text: String = ('!'..='~').collect();
            renderer.layout(&text, size);
        }
        assert!(renderer.glyphs.lock().unwrap().len() <= MAX_GLYPHS);
    }

    #[test]
    fn text_fits_the_height_it_claims() {
        let renderer = TextRenderer::default();
        for size in [12, 13, 24, 48] {
            let line = renderer.layout("#0123456789 gjpqy|ÄÉ", size);
            for glyph in &line.glyphs {
                let height = glyph.coverage.len().checked_div(glyph.width).unwrap_or(0) as i64;
                // Accents and descenders may reach a pixel beyond.
                assert!(glyph.top >= -1 && glyph.top + height <= line.height + 1);
            }
        }
    }
}
