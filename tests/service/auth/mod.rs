//! Who may do what, over real connections to a service in this process: keys, tokens, tickets, roles,
//! limits, other sites' pages, TLS.

mod keys;
mod limits;
mod roles;
mod server;
mod tls;
mod tokens;
