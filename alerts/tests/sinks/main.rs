//! Sinks against real receivers: rsyslog by mutual TLS, an HTTP server, a journal's socket.

mod http;
mod journal;
mod local;
mod rsyslog;
mod world;
