//! Search by a picture: the largest person in it is embedded and compared with every stored vector.

use axum::body::Bytes;
use axum::http::StatusCode;
use image::RgbImage;
use mtmc_models::{BBox, Crop, DetectOptions, Detector as _, Embedder as _, Embedding};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

use crate::gallery::search::ExactSearch;
use crate::service::SharedApp;
use crate::service::problem::Problem;
use crate::source::decode_image;
use crate::store::StoreError;

/// Most people of one answer.
pub const MAX_TOP_K: usize = 100;

/// Searches at once in the process: each may hold a decoded picture of 192 MiB, and all share the
/// cores with the tasks.
const AT_ONCE: usize = 2;

static PERMITS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Vectors that are compared at a time, which bounds memory whatever the store holds.
const CHUNK: usize = 4096;

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// Identities with cosine similarities, -1..=1, the likeliest first.
    pub hits: Vec<(i64, f32)>,
    /// The person of the picture, in pixels: left, top, right, bottom; `None`: the whole picture.
    pub bbox: Option<[f32; 4]>,
    /// Vectors that were compared.
    pub searched: u64,
}

/// Leave to search.
///
/// # Errors
/// Enough searches are under way.
pub fn admit() -> Result<SemaphorePermit<'static>, Problem> {
    PERMITS.try_acquire().map_err(|_| {
        let detail = format!("{AT_ONCE} searches are under way already");
        let status = StatusCode::TOO_MANY_REQUESTS;
        Problem::new(status, "too-many-searches", detail).retry_after(1)
    })
}

/// Searches on a thread that may block. The permit is held until the work is done, also if the
/// client has gone.
///
/// # Errors
/// The bytes are no picture, there is no re-ID network, or the store cannot be read.
pub async fn run(
    app: SharedApp,
    bytes: Bytes,
    environment_id: Option<String>,
    top_k: usize,
    permit: SemaphorePermit<'static>,
) -> Result<Found, Problem> {
    let runtime = Handle::current();
    let work = spawn_blocking(move || {
        let _permit = permit;
        let image = decode_image(&bytes)
            .map_err(|reason| Problem::invalid(format!("the picture cannot be read: {reason}")))?;
        drop(bytes);
        let (query, bbox) = look(&app, &image)?;
        drop(image);
        let environment = environment_id.as_deref();
        let best = runtime.block_on(compare(&app, &query, environment, top_k));
        let (hits, searched) = best.map_err(|error| Problem::store(&error))?;
        Ok(Found {
            hits,
            bbox: bbox.map(|BBox { x1, y1, x2, y2 }| [x1, y1, x2, y2]),
            searched,
        })
    });
    work.await.map_err(|error| Problem::internal(&error))?
}

/// The vector of the largest person in a picture, and where that is; of the whole picture if there is
/// nobody.
fn look(app: &SharedApp, image: &RgbImage) -> Result<(Embedding, Option<BBox>), Problem> {
    let Some(embedder) = &app.networks.embedder else {
        return Err(Problem::conflict("no-reid", "there is no re-ID network"));
    };
    let bbox = largest(app, image)?;
    let crop = match bbox {
        Some(bbox) => Crop { image, bbox },
        None => Crop::whole(image),
    };
    let vectors = embedder.embed(&[crop]);
    let vector = vectors.map_err(|error| Problem::internal(&error))?.pop();
    match vector {
        Some(Ok(vector)) => Ok((vector, bbox)),
        Some(Err(error)) => Err(Problem::invalid(format!(
            "nothing can be told of the picture's looks: {error}"
        ))),
        None => Err(Problem::internal(&"the encoder gave no vector")),
    }
}

fn largest(app: &SharedApp, image: &RgbImage) -> Result<Option<BBox>, Problem> {
    let Some(detector) = &app.networks.detector else {
        return Ok(None);
    };
    let settings = &app.settings;
    let options = DetectOptions {
        score_floor: settings.confidence,
        classes: settings.classes.clone(),
        nms_iou: settings.nms,
    };
    let found = detector.detect(&[image], &options);
    let found = found.map_err(|error| Problem::internal(&error))?;
    let (width, height) = (image.width() as f32, image.height() as f32);
    let mut best: Option<(f32, BBox)> = None;
    for detection in found.into_iter().flatten() {
        let bbox = detection.bbox.clamp_to(width, height);
        let area = bbox.width() * bbox.height();
        if area >= 1.0 && best.is_none_or(|(largest, _)| area > largest) {
            best = Some((area, bbox));
        }
    }
    Ok(best.map(|(_, bbox)| bbox))
}

/// Compares a vector with all stored ones of the loaded network; the best, and how many there were.
async fn compare(
    app: &SharedApp,
    query: &Embedding,
    environment_id: Option<&str>,
    top_k: usize,
) -> Result<(Vec<(i64, f32)>, u64), StoreError> {
    let mut best = Best {
        query,
        top_k,
        ids: Vec::new(),
        search: ExactSearch::new(query.dim()),
        hits: Vec::new(),
        searched: 0,
    };
    let model = app.networks.embedder_name.as_str();
    let each = |global_id: i64, vector: &[f32]| best.add(global_id, vector);
    app.store.each_vector(model, environment_id, each).await?;
    best.close_chunk();
    Ok((best.hits, best.searched))
}

/// The most similar so far, and a chunk of vectors that are still to be compared.
struct Best<'a> {
    query: &'a Embedding,
    top_k: usize,
    ids: Vec<i64>,
    search: ExactSearch,
    hits: Vec<(i64, f32)>,
    searched: u64,
}

impl Best<'_> {
    fn add(&mut self, global_id: i64, vector: &[f32]) {
        // One that is zero or of another size is no vector of this network.
        let Ok(vector) = Embedding::new(vector.to_vec()) else {
            return;
        };
        if self.search.push(&vector).is_err() {
            return;
        }
        self.ids.push(global_id);
        if self.ids.len() == CHUNK {
            self.close_chunk();
        }
    }

    fn close_chunk(&mut self) {
        // Sizes were checked when they came in.
        let found = self.search.top_k(&[self.query], self.top_k);
        for hit in found.into_iter().flatten().flatten() {
            if let Some(id) = self.ids.get(hit.index) {
                self.hits.push((*id, hit.similarity));
            }
        }
        // Of equal ones the lower identity first; the sort is stable, and chunks come by identity.
        self.hits.sort_by(|a, b| b.1.total_cmp(&a.1));
        self.hits.truncate(self.top_k);
        self.searched += self.ids.len() as u64;
        self.ids.clear();
        self.search = ExactSearch::new(self.query.dim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain sort of all similarities, across chunks.
    #[test]
    fn chunks_do_not_change_what_is_found() {
        let vector = |n: u32| {
            let angle = f64::from(n * 7_919 % 10_007) / 10_007.0 * std::f64::consts::TAU;
            vec![angle.cos() as f32, angle.sin() as f32]
        };
        let query = Embedding::new(vec![0.6, 0.8]).unwrap();
        let mut best = Best {
            query: &query,
            top_k: 5,
            ids: Vec::new(),
            search: ExactSearch::new(2),
            hits: Vec::new(),
            searched: 0,
        };
        let count = 2 * CHUNK as u32 + 100;
        let mut expected = Vec::new();
        for n in 0..count {
            best.add(i64::from(n), &vector(n));
            let similarity = Embedding::new(vector(n)).unwrap().cosine(&query);
            expected.push((i64::from(n), similarity));
        }
        // Neither of another size nor zero.
        best.add(-1, &[1.0, 0.0, 0.0]);
        best.add(-2, &[0.0, 0.0]);
        best.close_chunk();
        assert_eq!(best.searched, u64::from(count));
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (found, wanted) in best.hits.iter().zip(&expected[..5]) {
            assert_eq!(found.0, wanted.0);
            assert!((found.1 - wanted.1).abs() < 1e-5);
        }
        assert_eq!(best.hits.len(), 5);
    }
}
