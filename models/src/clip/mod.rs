//! The image encoder of CLIP-ReID (Li et al., "CLIP-ReID: Exploiting Vision-Language Model for
//! Image Re-Identification without Concrete Text Labels", AAAI 2023): the ViT-B/16 of CLIP
//! (Radford et al., 2021) on images of people, twice as high as wide.
//!
//! Patches of 16×16 pixels and a class token pass through twelve transformer layers; the class
//! token, normed, is a vector of 768 numbers, and its projection into the space that CLIP shares
//! with text one of 512. The reference evaluates both side by side ([`Feature::Full`]); the
//! projection alone is the default here. The text encoder ([`TextEncoder`]) serves only training.
//!
//! Side information (SIE): weights may hold a vector for each camera of the training set, which is
//! added to the class token. Where no camera is told, none is added, as in the reference.
//!
//! Tensor names are CLIP-ReID's: `image_encoder.…`, `cv_embed`, `bottleneck`, `bottleneck_proj`.

mod block;
mod drops;
mod text;

use candle_core::{Module, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::embed::EmbeddingNetwork;
use crate::layers::{BatchNorm, Conv, ConvNormAct, LayerNorm, Params, Precision};
use crate::ops::mixed;
use crate::{Description, Variant};

pub use drops::Drops;
pub use text::{CONTEXT, FILLING, PREFIX, SUFFIX, TextConfig, TextEncoder};

use block::{Block, LastBlock};

/// The architecture's name in descriptions.
pub const NAME: &str = "clip-reid-vit-b16";

/// The same network with much smaller sizes, for tests and first tries of its training.
pub const TINY: &str = "clip-reid-vit-tiny";

/// Most cameras that weights may know.
const MAX_CAMERAS: usize = 1 << 16;

/// Which vector stands for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// The projection: 512 numbers.
    Proj,
    /// The class token and its projection, one after the other: 1280 numbers.
    Full,
}

/// On which side of its batch norm a vector is taken (the reference's `TEST.NECK_FEAT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Neck {
    /// Before: the reference's published configurations.
    Before,
    /// After: the weights then hold `bottleneck_proj` and, for [`Feature::Full`], `bottleneck`.
    After,
}

/// What the architecture's name leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClipVitVariant {
    /// Pixels between neighbouring patches: 16, or 12 for overlapping ones.
    pub stride: usize,
    /// Which vector.
    pub feature: Feature,
    /// Before or after its batch norm.
    pub neck: Neck,
    /// Cameras that `cv_embed` knows; 0 if there is none.
    pub cameras: usize,
    /// Factor of a camera's vector (the reference's `SIE_COE`).
    pub camera_weight: f64,
    /// Whether the weights hold the text encoder too, for training ([`TextEncoder`]).
    #[serde(default, skip_serializing_if = "is_false")]
    pub text: bool,
}

// As serde asks for it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

impl Default for ClipVitVariant {
    fn default() -> Self {
        Self {
            stride: 16,
            feature: Feature::Proj,
            neck: Neck::Before,
            cameras: 0,
            camera_weight: 3.0,
            text: false,
        }
    }
}

/// Sizes of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipVitConfig {
    /// Height and width of the images in pixels.
    pub image: (usize, usize),
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Numbers a token.
    pub width: usize,
    /// Transformer layers, at least one.
    pub layers: usize,
    /// Heads of their attention.
    pub heads: usize,
    /// Length of the projection.
    pub projection: usize,
    /// Transformer layers of the text encoder beside it.
    pub text_layers: usize,
    /// Heads of their attention.
    pub text_heads: usize,
    /// What differs between weights.
    pub variant: ClipVitVariant,
}

impl ClipVitConfig {
    /// ViT-B/16 on images of that height and width.
    pub fn base(image: (usize, usize), variant: ClipVitVariant) -> Self {
        Self {
            image,
            patch: 16,
            width: 768,
            layers: 12,
            heads: 12,
            projection: 512,
            text_layers: 12,
            text_heads: 8,
            variant,
        }
    }

    /// Sizes of [`TINY`].
    pub fn tiny(image: (usize, usize), variant: ClipVitVariant) -> Self {
        Self {
            image,
            patch: 16,
            width: 48,
            layers: 3,
            heads: 3,
            projection: 32,
            text_layers: 2,
            text_heads: 2,
            variant,
        }
    }

    /// What a description says; `None` if it is of another architecture.
    pub fn of(description: &Description) -> Option<Self> {
        let sizes = match description.architecture.as_str() {
            NAME => Self::base,
            TINY => Self::tiny,
            _ => return None,
        };
        let variant = match &description.variant {
            Some(Variant::ClipVit(variant)) => *variant,
            Some(Variant::Resnet50(_)) => return None,
            None => ClipVitVariant::default(),
        };
        let image = (description.input_height, description.input_width);
        Some(sizes(image, variant))
    }

    /// Rows and columns of patches.
    pub fn grid(&self) -> (usize, usize) {
        let count = |size: usize| match size.checked_sub(self.patch) {
            Some(room) => room / self.variant.stride.max(1) + 1,
            None => 0,
        };
        (count(self.image.0), count(self.image.1))
    }

    /// Length of the vectors.
    pub fn dim(&self) -> usize {
        match self.variant.feature {
            Feature::Proj => self.projection,
            Feature::Full => self.width + self.projection,
        }
    }

    fn check(&self) -> Result<()> {
        let (rows, columns) = self.grid();
        let sound = rows * columns > 0
            && (1..=self.patch).contains(&self.variant.stride)
            && self.layers > 0
            && self.heads > 0
            && self.width.is_multiple_of(self.heads)
            && self.variant.cameras <= MAX_CAMERAS
            && self.variant.camera_weight.is_finite();
        if !sound {
            candle_core::bail!("no vision transformer can be built as {self:?}");
        }
        Ok(())
    }
}

/// The class token on its way, which the reference's losses look at.
pub struct ClassTokens {
    /// Before the last layer: `[batch, width]`.
    pub before_last: Tensor,
    /// After it, normed: `[batch, width]`.
    pub full: Tensor,
    /// Projected: `[batch, projection]`.
    pub projected: Tensor,
}

/// The network.
pub struct ClipVit {
    config: ClipVitConfig,
    patches: ConvNormAct,
    class_embedding: Tensor,
    positional_embedding: Tensor, // [1 + patches, width]
    ln_pre: LayerNorm,
    blocks: Vec<Block>,
    last: LastBlock,
    ln_post: LayerNorm,
    proj: Tensor, // [width, projection]
    /// `[cameras, width]`.
    cameras: Option<Tensor>,
    neck: Option<Norms>,
    precision: Precision,
}

/// Batch norms of the vectors.
struct Norms {
    full: Option<BatchNorm>,
    projected: BatchNorm,
}

impl ClipVit {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape, or the configuration makes no sense.
    pub fn new(config: &ClipVitConfig, params: &Params) -> Result<Self> {
        config.check()?;
        let (width, variant) = (config.width, &config.variant);
        let encoder = params.pp("image_encoder");
        let layers = encoder.pp("transformer").pp("resblocks");
        let mut blocks = Vec::new();
        for index in 0..config.layers - 1 {
            blocks.push(Block::new(width, config.heads, &layers.pp(index))?);
        }
        let (rows, columns) = config.grid();
        let conv = Conv::new(3, width, config.patch)
            .stride(variant.stride)
            .padding(0);
        Ok(Self {
            patches: ConvNormAct::without_norm(conv, &encoder.pp("conv1"))?,
            class_embedding: encoder.get(width, "class_embedding")?,
            positional_embedding: encoder
                .get((1 + rows * columns, width), "positional_embedding")?,
            ln_pre: LayerNorm::new(width, &encoder.pp("ln_pre"))?,
            blocks,
            last: LastBlock::new(width, config.heads, &layers.pp(config.layers - 1))?,
            ln_post: LayerNorm::new(width, &encoder.pp("ln_post"))?,
            proj: encoder.get((width, config.projection), "proj")?,
            cameras: match variant.cameras {
                0 => None,
                count => Some(params.get((count, width), "cv_embed")?),
            },
            neck: Norms::new(config, params)?,
            precision: params.plain_products(),
            config: config.clone(),
        })
    }

    /// The class token of `[batch, 3, height, width]` images. `cameras`: for each image its
    /// camera's number in the training set, if that is known; it matters only to weights with
    /// side information.
    ///
    /// # Errors
    /// The images have another size, a camera is out of range, or the device fails.
    pub fn class_tokens(&self, images: &Tensor, cameras: Option<&[u32]>) -> Result<ClassTokens> {
        self.class_tokens_dropped(images, cameras, &mut Drops::none())
    }

    /// The same with what chance leaves out of a training step.
    ///
    /// # Errors
    /// As [`ClipVit::class_tokens`].
    pub fn class_tokens_dropped(
        &self,
        images: &Tensor,
        cameras: Option<&[u32]>,
        drops: &mut Drops,
    ) -> Result<ClassTokens> {
        let mut x = drops.numbers(self.tokens(images, cameras)?)?;
        let layers = self.config.layers;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward_dropped(&x, drops.path_of(layer, layers), drops)?;
        }
        let batch = x.dim(0)?;
        let before_last = x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        if batch == 1 {
            // Alone, a row is multiplied by another routine, which rounds differently: no bit of a
            // vector shall depend on the batch it came in.
            x = Tensor::cat(&[&x, &x], 0)?;
        }
        let path = drops.path_of(layers - 1, layers);
        let last = self.last.forward_dropped(&x, path, drops)?;
        let full = self.ln_post.forward(&last)?;
        let projected = mixed::matmul(&full, &self.proj, self.precision)?;
        Ok(ClassTokens {
            before_last,
            full: full.narrow(0, 0, batch)?,
            projected: projected.narrow(0, 0, batch)?,
        })
    }

    /// The vectors of images, `[batch, dim]`; arguments as [`ClipVit::class_tokens`].
    ///
    /// # Errors
    /// As [`ClipVit::class_tokens`].
    pub fn vectors(&self, images: &Tensor, cameras: Option<&[u32]>) -> Result<Tensor> {
        self.vectors_of(&self.class_tokens(images, cameras)?)
    }

    /// The vectors that class tokens become, `[batch, dim]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn vectors_of(&self, class: &ClassTokens) -> Result<Tensor> {
        let (full, projected) = self.normed(class)?;
        match self.config.variant.feature {
            Feature::Proj => Ok(projected),
            Feature::Full => Tensor::cat(&[full, projected], 1),
        }
    }

    /// The class token and its projection after the batch norms that the weights hold for them.
    ///
    /// # Errors
    /// The device fails.
    pub fn normed(&self, class: &ClassTokens) -> Result<(Tensor, Tensor)> {
        let (mut full, mut projected) = (class.full.clone(), class.projected.clone());
        if let Some(neck) = &self.neck {
            projected = neck.projected.forward(&projected)?;
            if let Some(norm) = &neck.full {
                full = norm.forward(&full)?;
            }
        }
        Ok((full, projected))
    }

    /// What the first layer gets: `[batch, 1 + patches, width]`.
    fn tokens(&self, images: &Tensor, cameras: Option<&[u32]>) -> Result<Tensor> {
        let (batch, _, height, width) = images.dims4()?;
        if (height, width) != self.config.image {
            candle_core::bail!(
                "this vision transformer takes images of {:?} (height, width), not {:?}",
                self.config.image,
                (height, width)
            );
        }
        let images = self.seen(images)?;
        let patches = self.patches.forward(&images)?; // [batch, width, rows, columns]
        let patches = patches.flatten_from(2)?.transpose(1, 2)?;
        let size = self.config.width;
        let class = self.class_embedding.reshape((1, 1, size))?;
        let class = match self.camera_vectors(batch, cameras)? {
            Some(vectors) => vectors.unsqueeze(1)?.broadcast_add(&class)?,
            None => class.broadcast_as((batch, 1, size))?,
        };
        let tokens = Tensor::cat(&[class, patches], 1)?;
        let tokens = tokens.broadcast_add(&self.positional_embedding)?;
        self.ln_pre.forward(&tokens)
    }

    /// The images without the edge that no patch reaches. A convolution would leave it out by
    /// itself, but candle's gradient expects both sides to have equally much of it.
    fn seen(&self, images: &Tensor) -> Result<Tensor> {
        let (rows, columns) = self.config.grid();
        let (patch, stride) = (self.config.patch, self.config.variant.stride);
        images.narrow(2, 0, (rows - 1) * stride + patch)?.narrow(
            3,
            0,
            (columns - 1) * stride + patch,
        )
    }

    /// What side information adds to each image's class token: `[batch, width]`.
    fn camera_vectors(&self, batch: usize, cameras: Option<&[u32]>) -> Result<Option<Tensor>> {
        let (Some(table), Some(cameras)) = (&self.cameras, cameras) else {
            return Ok(None);
        };
        let known = self.config.variant.cameras;
        if cameras.len() != batch || cameras.iter().any(|camera| *camera as usize >= known) {
            candle_core::bail!("{batch} images of cameras {cameras:?}; the weights know {known}");
        }
        let chosen = table.index_select(&Tensor::new(cameras, table.device())?, 0)?;
        Ok(Some((chosen * self.config.variant.camera_weight)?))
    }
}

impl Norms {
    fn new(config: &ClipVitConfig, params: &Params) -> Result<Option<Self>> {
        if config.variant.neck == Neck::Before {
            return Ok(None);
        }
        let full = match config.variant.feature {
            Feature::Full => Some(BatchNorm::new(config.width, &params.pp("bottleneck"))?),
            Feature::Proj => None,
        };
        let projected = BatchNorm::new(config.projection, &params.pp("bottleneck_proj"))?;
        Ok(Some(Self { full, projected }))
    }
}

impl EmbeddingNetwork for ClipVit {
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        crate::ops::on_threads(images, || self.vectors(images, None))
    }

    fn dim(&self) -> usize {
        self.config.dim()
    }
}
