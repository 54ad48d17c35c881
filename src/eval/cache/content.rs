//! The kinds of content: how they become tensors and come back from them.

use mtmc_models::{BBox, Detection, Embedding};
use safetensors::tensor::{Dtype, SafeTensors};

use crate::tracker::camera_motion::CameraMotion;

/// A kind of content: how it becomes tensors and comes back from them.
pub trait Content: Sized {
    /// Name of the kind, part of the file's name.
    const KIND: &'static str;

    /// The tensors.
    fn tensors(&self) -> Vec<StoredTensor>;

    /// Back from the tensors.
    ///
    /// # Errors
    /// What does not fit.
    fn from_tensors(tensors: &Tensors<'_>) -> Result<Self, String>;
}

/// A tensor to be stored, little-endian.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    pub(super) name: &'static str,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

impl StoredTensor {
    fn f32(name: &'static str, shape: Vec<usize>, values: impl Iterator<Item = f32>) -> Self {
        Self {
            name,
            dtype: Dtype::F32,
            shape,
            bytes: values.flat_map(f32::to_le_bytes).collect(),
        }
    }

    fn f64(name: &'static str, shape: Vec<usize>, values: impl Iterator<Item = f64>) -> Self {
        Self {
            name,
            dtype: Dtype::F64,
            shape,
            bytes: values.flat_map(f64::to_le_bytes).collect(),
        }
    }

    fn i64(name: &'static str, values: impl Iterator<Item = i64>) -> Self {
        let bytes: Vec<u8> = values.flat_map(i64::to_le_bytes).collect();
        Self {
            name,
            dtype: Dtype::I64,
            shape: vec![bytes.len() / 8],
            bytes,
        }
    }
}

/// The tensors of a file.
pub struct Tensors<'a>(pub(super) SafeTensors<'a>);

impl Tensors<'_> {
    /// Shape and bytes of a tensor with numbers of `size` bytes.
    fn get(&self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, Vec<u8>), String> {
        let view = self.0.tensor(name).map_err(|error| error.to_string())?;
        if view.dtype() != dtype {
            return Err(format!(
                "{name}: {dtype:?} expected, found {:?}",
                view.dtype()
            ));
        }
        Ok((view.shape().to_vec(), view.data().to_vec()))
    }

    fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), String> {
        let (shape, bytes) = self.get(name, Dtype::F32)?;
        let (chunks, _) = bytes.as_chunks::<4>();
        Ok((
            shape,
            chunks.iter().map(|c| f32::from_le_bytes(*c)).collect(),
        ))
    }

    fn f64(&self, name: &str) -> Result<(Vec<usize>, Vec<f64>), String> {
        let (shape, bytes) = self.get(name, Dtype::F64)?;
        let (chunks, _) = bytes.as_chunks::<8>();
        Ok((
            shape,
            chunks.iter().map(|c| f64::from_le_bytes(*c)).collect(),
        ))
    }

    fn i64(&self, name: &str) -> Result<Vec<i64>, String> {
        let (_, bytes) = self.get(name, Dtype::I64)?;
        let (chunks, _) = bytes.as_chunks::<8>();
        Ok(chunks.iter().map(|c| i64::from_le_bytes(*c)).collect())
    }
}

/// Detections of all frames of a sequence, by frame.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Detections(pub Vec<Vec<Detection>>);

impl Content for Detections {
    const KIND: &'static str = "detections";

    fn tensors(&self) -> Vec<StoredTensor> {
        let all = || self.0.iter().flatten();
        let corners = |d: &Detection| [d.bbox.x1, d.bbox.y1, d.bbox.x2, d.bbox.y2];
        vec![
            StoredTensor::i64("counts", self.0.iter().map(|frame| frame.len() as i64)),
            StoredTensor::f32("boxes", vec![all().count(), 4], all().flat_map(corners)),
            StoredTensor::f32("scores", vec![all().count()], all().map(|d| d.score)),
            StoredTensor::i64("classes", all().map(|d| i64::from(d.class))),
        ]
    }

    fn from_tensors(tensors: &Tensors<'_>) -> Result<Self, String> {
        let (_, boxes) = tensors.f32("boxes")?;
        let (_, scores) = tensors.f32("scores")?;
        let classes = tensors.i64("classes")?;
        let (corners, _) = boxes.as_chunks::<4>();
        let mut detections = Vec::with_capacity(corners.len());
        for ((corners, &score), &class) in corners.iter().zip(&scores).zip(&classes) {
            let &[x1, y1, x2, y2] = corners;
            detections.push(Detection {
                bbox: BBox::from_xyxy(x1, y1, x2, y2),
                score,
                class: u32::try_from(class).map_err(|_| format!("class {class}"))?,
            });
        }
        let mut rest = detections.into_iter();
        let mut frames = Vec::new();
        for count in tensors.i64("counts")? {
            let count = usize::try_from(count).map_err(|_| format!("{count} boxes"))?;
            let frame: Vec<Detection> = rest.by_ref().take(count).collect();
            if frame.len() != count {
                return Err("fewer boxes than their counts say".to_string());
            }
            frames.push(frame);
        }
        if rest.next().is_some() {
            return Err("more boxes than their counts say".to_string());
        }
        Ok(Self(frames))
    }
}

/// Embeddings of all detections of a sequence, in their order, `None` where there is none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embeddings(pub Vec<Option<Embedding>>);

impl Content for Embeddings {
    const KIND: &'static str = "embeddings";

    fn tensors(&self) -> Vec<StoredTensor> {
        let made = || self.0.iter().flatten();
        let dim = made().next().map_or(0, Embedding::dim);
        let numbers = made().flat_map(|embedding| embedding.as_slice().iter().copied());
        vec![
            StoredTensor::i64("made", self.0.iter().map(|e| i64::from(e.is_some()))),
            StoredTensor::f32("vectors", vec![made().count(), dim], numbers),
        ]
    }

    fn from_tensors(tensors: &Tensors<'_>) -> Result<Self, String> {
        let made = tensors.i64("made")?;
        let (shape, numbers) = tensors.f32("vectors")?;
        let &[count, dim] = shape.as_slice() else {
            return Err(format!("vectors: shape {shape:?}"));
        };
        if made.iter().filter(|made| **made != 0).count() != count {
            return Err(format!("{count} vectors, but not as many made"));
        }
        let mut vectors = numbers.chunks_exact(dim.max(1));
        let mut embeddings = Vec::with_capacity(made.len());
        for made in made {
            if made == 0 {
                embeddings.push(None);
                continue;
            }
            let vector = vectors.next().ok_or("a vector is missing")?;
            let embedding = Embedding::new(vector.to_vec()).map_err(|error| error.to_string())?;
            embeddings.push(Some(embedding));
        }
        Ok(Self(embeddings))
    }
}

/// The camera's motion before each frame of a sequence.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Motions(pub Vec<CameraMotion>);

impl Content for Motions {
    const KIND: &'static str = "motion";

    fn tensors(&self) -> Vec<StoredTensor> {
        let numbers = self
            .0
            .iter()
            .flat_map(|motion| motion.rows.into_iter().flatten());
        vec![StoredTensor::f64("rows", vec![self.0.len(), 6], numbers)]
    }

    fn from_tensors(tensors: &Tensors<'_>) -> Result<Self, String> {
        let (_, numbers) = tensors.f64("rows")?;
        let (rows, _) = numbers.as_chunks::<6>();
        let motion = |row: &[f64; 6]| {
            let &[a, b, x, c, d, y] = row;
            CameraMotion {
                rows: [[a, b, x], [c, d, y]],
            }
        };
        Ok(Self(rows.iter().map(motion).collect()))
    }
}
