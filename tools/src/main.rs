//! `mtmc-convert`: foreign weights in, described safetensors out.
fn main() {}
