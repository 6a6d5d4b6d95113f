//! Small changes without nft: the same transaction, as nf_tables' own messages.
//!
//! *Does*: encodes what a change of one VM is made of, and asks whether a chain is there. nft reads the names of all that is in the kernel
//! before it does anything, which of a thousand VMs takes half a second; the kernel itself needs none of that. *Trusts*: the kernel, which checks a
//! transaction and takes all of it or nothing. *Never*: guesses. What is not written here is left to nft, and so is what the kernel refuses.
//!
//! `firewall/tests/wire.rs` holds every encoding against what nft itself makes of the same transaction.

mod attribute;
mod encode;
mod key;
mod rule;

use super::model::Transaction;
use crate::netlink::{ERROR, REQUEST_AND_ACK, messages, word};
use attribute::Attributes;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use std::io::{Error, ErrorKind, Result};

/// A larger change is left to nft.
const MAX_BYTES: usize = 16 << 20;
/// `ENOENT`.
const NOT_THERE: i32 = 2;
/// Answers that are read at most.
const MAX_ANSWERS: usize = 4096;

/// Does a transaction. `None` where it is not one for here; nothing was done then.
pub(super) fn commit(transaction: &Transaction) -> Option<Result<()>> {
    let (bytes, last) = encode::batch(transaction).filter(|(bytes, _)| bytes.len() < MAX_BYTES)?;
    Some(done(&bytes, last))
}

/// Whether the table `lynceus` of a family has this chain.
pub(super) fn has_chain(family: &str, name: &str) -> Option<Result<bool>> {
    is_there(encode::GET_CHAIN, family, &Attributes::default().text(1, super::TABLE)?.text(3, name)?)
}

/// Whether a family has the table `lynceus`.
pub(super) fn has_table(family: &str) -> Option<Result<bool>> {
    is_there(encode::GET_TABLE, family, &Attributes::default().text(1, super::TABLE)?)
}

fn is_there(kind: u16, family: &str, which: &Attributes) -> Option<Result<bool>> {
    let bytes = encode::message(kind, REQUEST_AND_ACK, family, which)?;
    Some(match ask(&bytes) {
        Ok(answers) => match answers.iter().find(|answer| answer.error != 0) {
            None => Ok(!answers.is_empty()),
            Some(answer) if answer.error == NOT_THERE => Ok(false),
            Some(answer) => Err(Error::from_raw_os_error(answer.error)),
        },
        Err(error) => Err(error),
    })
}

/// What the kernel said to a message: zero, or an error's number.
struct Answer {
    number: u32,
    error: i32,
}

fn done(bytes: &[u8], last: u32) -> Result<()> {
    let answers = ask(bytes)?;
    if let Some(answer) = answers.iter().find(|answer| answer.error != 0) {
        return Err(Error::from_raw_os_error(answer.error));
    }
    match answers.iter().any(|answer| answer.number == last) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::UnexpectedEof, "the kernel did not answer")),
    }
}

/// Sends a datagram. The kernel works it off before the call returns: its answers are there then.
fn ask(bytes: &[u8]) -> Result<Vec<Answer>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    // The kernel takes a datagram whole, or not at all where there is no room for it.
    set_socket_send_buffer_size_force(&socket, bytes.len())?;
    socket.send_to(bytes, &SocketAddr::new(0, 0), 0)?;
    let mut answers = Vec::new();
    loop {
        match socket.recv_from_full() {
            Ok((datagram, _)) => answers.extend(read(&datagram)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answers),
            Err(error) => return Err(error),
        }
        if answers.len() > MAX_ANSWERS {
            return Err(Error::other("more answers than questions"));
        }
    }
}

/// `struct nlmsgerr`: the error, negative, then the header of the message that it is about.
fn read(datagram: &[u8]) -> Vec<Answer> {
    let answer = |(kind, body)| {
        let error = word(body, 0)?.cast_signed().checked_neg()?;
        (kind == ERROR).then_some(Answer { number: word(body, 12)?, error })
    };
    messages(datagram).filter_map(answer).collect()
}
