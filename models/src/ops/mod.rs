//! Operations that candle lacks or does slowly.
