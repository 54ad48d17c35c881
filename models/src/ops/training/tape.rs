//! Gradients between the steps of this module.
//!
//! candle adds every gradient that arrives at a tensor to zeros of its size: two more tensors to
//! write and two to read, about an eighth of the time of a light network. So a step is an operation
//! with a single number as its output, a token, and what it computed is a second operation on the
//! token. Steps that follow take the token for their input and leave their gradients in its slot;
//! anybody else takes what was computed, whose gradient ends up in the same slot. candle calls a
//! step back after all who took its token.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, TensorId,
};
use rayon::prelude::*;

use super::{PART, with_numbers};

/// Sum of the gradients that have arrived.
#[derive(Default)]
struct Slot(Mutex<Option<Vec<f32>>>);

impl Slot {
    fn take(&self) -> Option<Vec<f32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn add(&self, gradient: Vec<f32>) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *sum {
            Some(sum) => sum
                .par_chunks_mut(PART)
                .zip(gradient.par_chunks(PART))
                .for_each(|(sum, gradient)| {
                    for (sum, gradient) in sum.iter_mut().zip(gradient) {
                        *sum += gradient;
                    }
                }),
            None => *sum = Some(gradient),
        }
    }
}

/// How steps reach one that came before them.
struct Edge {
    /// Of one number.
    token: Tensor,
    slot: Arc<Slot>,
}

thread_local! {
    /// By what the steps computed, as long as that is there.
    static EDGES: RefCell<HashMap<TensorId, Weak<Edge>>> = RefCell::default();
}

/// Edges after which those that are gone are looked for.
const MANY: usize = 4096;

fn remember(x: &Tensor, edge: &Arc<Edge>) {
    EDGES.with_borrow_mut(|edges| {
        if edges.len() >= MANY {
            edges.retain(|_, edge| edge.strong_count() > 0);
        }
        edges.insert(x.id(), Arc::downgrade(edge));
    });
}

fn edge_of(x: &Tensor) -> Option<Arc<Edge>> {
    EDGES.with_borrow(|edges| edges.get(&x.id())?.upgrade())
}

/// What a step reads.
pub(super) struct Input {
    /// In candle's graph: the token, or the tensor itself.
    argument: Tensor,
    edge: Option<Arc<Edge>>,
    /// Its numbers, in order.
    pub numbers: Tensor,
}

impl Input {
    pub(super) fn new(x: &Tensor) -> Result<Self> {
        let x = x.contiguous()?;
        let edge = edge_of(&x);
        let argument = match &edge {
            Some(edge) => edge.token.clone(),
            None => x.clone(),
        };
        Ok(Self {
            argument,
            edge,
            numbers: x.detach(),
        })
    }

    /// Whether anybody asks for its gradient.
    pub(super) fn is_tracked(&self) -> bool {
        self.argument.track_op()
    }
}

/// The way back through what was computed.
pub(super) trait Step: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Gradients of the inputs, each with the input's numbers; none where nobody asks for it.
    ///
    /// # Errors
    /// A tensor is not what it was.
    fn backward(&self, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>>;
}

/// What a step computed, with the way back to its one to three inputs.
///
/// # Errors
/// There are other than that many inputs, or `output` has not as many numbers as `shape`.
pub(super) fn computed(
    step: impl Step,
    inputs: Vec<Input>,
    output: Vec<f32>,
    shape: impl Into<Shape>,
) -> Result<Tensor> {
    let shape = shape.into();
    if shape.elem_count() != output.len() {
        candle_core::bail!("{} numbers for {shape:?}", output.len());
    }
    let slot = Arc::new(Slot::default());
    let (arguments, edges): (Vec<_>, Vec<_>) = inputs
        .into_iter()
        .map(|input| (input.argument, input.edge))
        .unzip();
    let node = Node {
        step,
        slot: slot.clone(),
        edges,
        count: output.len(),
    };
    let token = match arguments.as_slice() {
        [a] => a.apply_op1(node)?,
        [a, b] => a.apply_op2(b, node)?,
        [a, b, c] => a.apply_op3(b, c, node)?,
        _ => candle_core::bail!("a step of {} inputs", arguments.len()),
    };
    let edge = Arc::new(Edge { token, slot });
    let whole = Whole {
        edge: edge.clone(),
        output: Mutex::new(Some(output)),
        shape,
    };
    let x = edge.token.apply_op1(whole)?;
    if x.track_op() {
        remember(&x, &edge);
    }
    Ok(x)
}

/// The operation that a token comes from.
struct Node<S> {
    step: S,
    slot: Arc<Slot>,
    /// Those of the inputs that are steps' too.
    edges: Vec<Option<Arc<Edge>>>,
    /// Numbers of what was computed.
    count: usize,
}

impl<S: Step> Node<S> {
    fn forward() -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(1)))
    }

    fn backward(&self, arguments: &[&Tensor]) -> Result<Vec<Option<Tensor>>> {
        let gradient = self.slot.take().unwrap_or_else(|| vec![0.0; self.count]);
        let found = self.step.backward(gradient)?;
        let mut gradients = Vec::with_capacity(arguments.len());
        for ((found, edge), argument) in found.into_iter().zip(&self.edges).zip(arguments) {
            let Some(found) = found else {
                gradients.push(None);
                continue;
            };
            gradients.push(Some(match edge {
                Some(edge) => {
                    edge.slot.add(found);
                    argument.zeros_like()?
                }
                None => Tensor::from_vec(found, argument.shape(), argument.device())?,
            }));
        }
        Ok(gradients)
    }
}

impl<S: Step> CustomOp1 for Node<S> {
    fn name(&self) -> &'static str {
        self.step.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::forward()
    }

    fn bwd(&self, a: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        let mut gradients = self.backward(&[a])?.into_iter();
        Ok(gradients.next().flatten())
    }
}

impl<S: Step> CustomOp2 for Node<S> {
    fn name(&self) -> &'static str {
        self.step.name()
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::forward()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.backward(&[a, b])?.into_iter();
        let mut next = || gradients.next().flatten();
        Ok((next(), next()))
    }
}

impl<S: Step> CustomOp3 for Node<S> {
    fn name(&self) -> &'static str {
        self.step.name()
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::forward()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.backward(&[a, b, c])?.into_iter();
        let mut next = || gradients.next().flatten();
        Ok((next(), next(), next()))
    }
}

/// What a step computed, for everybody else.
struct Whole {
    edge: Arc<Edge>,
    output: Mutex<Option<Vec<f32>>>,
    shape: Shape,
}

impl CustomOp1 for Whole {
    fn name(&self) -> &'static str {
        "computed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        match output.take() {
            Some(output) => Ok((CpuStorage::F32(output), self.shape.clone())),
            None => candle_core::bail!("an operation of training ran twice"),
        }
    }

    fn bwd(&self, token: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.to_dtype(DType::F32)?.contiguous()?;
        let copy = with_numbers(&gradient, <[f32]>::to_vec)?;
        self.edge.slot.add(copy);
        Ok(Some(token.zeros_like()?))
    }
}
