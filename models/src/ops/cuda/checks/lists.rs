//! Kernels that choose from lists, against the same on the CPU.

use candle_core::{DType, Device, Result, Tensor};

use super::programs;
use super::{Draw, Executor, Given, difference, one, run_one};
use crate::ops::{best as twin_best, non_maximum_suppression, top_k as twin_top_k};
use crate::{BBox, Detection};

/// Many equal numbers, NaN and infinities among them.
pub(super) fn top_k(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let (rows, n) = (draw.size(1, 3), draw.size(1, 700));
    let k = draw.size(1, n.min(programs::MAX_K).min(310));
    let steps = draw.size(1, 400) as f32;
    let mut numbers = draw.numbers(rows * n);
    for number in &mut numbers {
        *number = match (*number * steps).round() {
            -1.0 => f32::NAN,
            2.0 => f32::NEG_INFINITY,
            -0.0 => -0.0,
            other => other / steps,
        };
    }
    let values = Given::new(numbers, dtype)?;
    let mut expected = Vec::new();
    for row in values.shaped(&[rows, n])?.to_vec2::<f32>()? {
        expected.extend(twin_top_k(&row, k));
    }
    let expected = Tensor::from_vec(expected, rows * k, &Device::Cpu)?;
    let program = programs::top_k(dtype, rows, n, k)?;
    difference(&run_one(executor, &program, &[&values])?, &expected)
}

/// Rows with equal numbers and NaN, some of nothing else.
pub(super) fn best(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let (rows, size) = (draw.size(1, 30), draw.size(1, 90));
    let steps = draw.size(1, 40) as f32;
    let mut numbers = draw.numbers(rows * size);
    for number in &mut numbers {
        *number = match (*number * steps).round() {
            1.0 => f32::NAN,
            other => other / steps,
        };
    }
    numbers[..size].fill(f32::NAN);
    let values = Given::new(numbers, dtype)?;
    let (mut indices, mut largest) = (Vec::new(), Vec::new());
    for row in values.shaped(&[rows, size])?.to_vec2::<f32>()? {
        let (index, value) = twin_best(&row).unwrap_or((u32::MAX, 0.0));
        indices.push(index);
        largest.push(value);
    }
    let program = programs::best(dtype, rows, size)?;
    let found = executor.run(&program, &[values.narrow])?;
    let mut worst = 0.0_f64;
    let expected = [
        Tensor::from_vec(indices, rows, &Device::Cpu)?,
        Tensor::from_vec(largest, rows, &Device::Cpu)?,
    ];
    for (found, expected) in found.iter().zip(&expected) {
        worst = worst.max(difference(found, expected)?);
    }
    Ok(worst)
}

pub(super) fn suppression(draw: &mut Draw, _: DType, executor: &dyn Executor) -> Result<f64> {
    let (batch, boxes) = (draw.size(1, 3), draw.size(1, 120));
    let iou = 0.2 + 0.4 * draw.numbers(1)[0].abs();
    let (mut corners, mut classes, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..batch {
        let (places, kinds) = (draw.numbers(boxes * 4), draw.numbers(boxes));
        let mut list = Vec::new();
        for (index, (place, kind)) in places.chunks_exact(4).zip(&kinds).enumerate() {
            list.push(Detection {
                bbox: BBox::from_cxcywh(place[0], place[1], place[2].abs(), place[3].abs()),
                // All different, so that the twin keeps the order.
                score: 1.0 - index as f32 / boxes as f32,
                class: u32::from(*kind > 0.6),
            });
        }
        for found in &list {
            let BBox { x1, y1, x2, y2 } = found.bbox;
            corners.extend([x1, y1, x2, y2]);
            classes.push(found.class);
        }
        let kept = non_maximum_suppression(list.clone(), iou, list.len());
        let stays = |found: &Detection| kept.iter().any(|k| k.score == found.score);
        expected.extend(list.iter().map(|found| u8::from(stays(found))));
    }
    let program = programs::suppression(batch, boxes, iou)?;
    let corners = Tensor::from_vec(corners, batch * boxes * 4, &Device::Cpu)?;
    let classes = Tensor::from_vec(classes, batch * boxes, &Device::Cpu)?;
    let expected = Tensor::from_vec(expected, batch * boxes, &Device::Cpu)?;
    difference(
        &one(executor.run(&program, &[corners, classes])?)?,
        &expected,
    )
}

pub(super) fn products(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let [m, n, dim] = [draw.size(1, 70), draw.size(1, 90), draw.size(1, 70)];
    let (left, right) = (draw.given(m * dim, dtype)?, draw.given(n * dim, dtype)?);
    let expected = left
        .shaped(&[m, dim])?
        .matmul(&right.shaped(&[n, dim])?.t()?)?;
    let program = programs::products(dtype, m, n, dim)?;
    difference(&run_one(executor, &program, &[&left, &right])?, &expected)
}

/// A search: the products with the whole gallery, and of each row the most similar; the same
/// neighbours for one query alone as for all of them.
pub(super) fn nearest(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let [queries, gallery, dim] = [draw.size(2, 9), draw.size(5, 200), draw.size(8, 64)];
    let k = draw.size(1, 5);
    let (asked, known) = (
        draw.given(queries * dim, dtype)?,
        draw.given(gallery * dim, dtype)?,
    );
    let search = |asked: &Tensor, count: usize| -> Result<(Tensor, Tensor)> {
        let program = programs::products(dtype, count, gallery, dim)?;
        let products = one(executor.run(&program, &[asked.clone(), known.narrow.clone()])?)?;
        let program = programs::top_k(DType::F32, count, gallery, k)?;
        let found = one(executor.run(&program, std::slice::from_ref(&products))?)?;
        Ok((products, found))
    };
    let (products, together) = search(&asked.narrow, queries)?;
    let mut expected = Vec::new();
    for row in products.reshape((queries, gallery))?.to_vec2::<f32>()? {
        expected.extend(twin_top_k(&row, k));
    }
    let expected = Tensor::from_vec(expected, queries * k, &Device::Cpu)?;
    let off = difference(&together, &expected)?;
    let last = asked.narrow.narrow(0, (queries - 1) * dim, dim)?;
    let (alone, _) = search(&last, 1)?;
    let beside = products.narrow(0, (queries - 1) * gallery, gallery)?;
    Ok(off.max(difference(&alone, &beside)?))
}
