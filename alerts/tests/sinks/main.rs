//! Sinks against real receivers: rsyslog by mutual TLS, an HTTP server, a journal's socket.

mod certificates;
mod http;
mod local;
mod rsyslog;
mod world;
