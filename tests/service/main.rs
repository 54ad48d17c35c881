//! The service from outside: the real binary, started, asked over real sockets, stopped and killed.

#![allow(clippy::unwrap_used)]

mod auth;
mod http;
mod operations;
mod people;
mod place;
mod recovery;
mod s3;
mod server;
mod uploads;
