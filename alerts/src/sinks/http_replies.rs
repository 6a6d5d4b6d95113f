//! What an HTTP receiver's answer means.
//!
//! *Does*: tells "later" from "never" from "an admin must act", for the whole batch and, with Elastic, for each document.
//! *Trusts*: nothing: an answer that is not understood counts as "later".
//! *Never*: takes a document for stored of which the answer does not say so.

use crate::config::Shape;
use crate::limits::prefix;
use serde::Deserialize;
use serde_json::Value;

/// What an answer means for a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// The receiver has it.
    Taken,
    /// It has it, but for these, which it will never take: place in the batch, and why.
    TakenBut(Vec<(usize, String)>),
    /// Again, later.
    Later(String),
    /// Not before an admin acts.
    Refused(String),
    /// Something in it is wrong.
    Wrong(String),
}

/// Elastic's answer to a bulk request.
#[derive(Deserialize)]
struct Bulk {
    errors: bool,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    create: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    status: u16,
    #[serde(default)]
    error: Value,
}

/// What `status` and `body` mean for a batch of `len`.
pub(super) fn judge(shape: Shape, status: u16, body: &str, len: usize) -> Reply {
    let said = format!("it answered {status}: {}", prefix(body.trim(), 200).escape_debug());
    match status {
        200..=299 if shape == Shape::Elastic => bulk(body, len),
        200..=299 => Reply::Taken,
        401 | 403 | 404 | 405 => Reply::Refused(said),
        400 | 413 | 415 | 422 => Reply::Wrong(said),
        _ => Reply::Later(said),
    }
}

fn bulk(body: &str, len: usize) -> Reply {
    let bulk: Bulk = match serde_json::from_str(body) {
        Ok(bulk) => bulk,
        Err(error) => return Reply::Later(format!("its answer to a bulk request cannot be read: {error}")),
    };
    if bulk.items.len() != len {
        return Reply::Later(format!("it answered for {} of {len} documents", bulk.items.len()));
    }
    if !bulk.errors && bulk.items.iter().all(|item| (200..=299).contains(&item.create.status)) {
        return Reply::Taken;
    }
    let mut rejected = Vec::new();
    for (at, Item { create }) in bulk.items.into_iter().enumerate() {
        let why = prefix(&create.error.to_string(), 200).to_owned();
        match create.status {
            // 409: it is there already. That is what the id is for.
            200..=299 | 409 => {}
            401 | 403 => return Reply::Refused(why),
            408 | 429 | 500..=599 => return Reply::Later(format!("document {at}: {} {why}", create.status)),
            status => rejected.push((at, format!("{status} {why}"))),
        }
    }
    if rejected.is_empty() { Reply::Taken } else { Reply::TakenBut(rejected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(statuses: &[u16]) -> String {
        let items: Vec<String> = statuses
            .iter()
            .map(|status| format!(r#"{{"create":{{"status":{status},"error":"e"}}}}"#))
            .collect();
        format!(r#"{{"errors":true,"items":[{}]}}"#, items.join(","))
    }

    #[test]
    fn each_document_is_judged() {
        let judge = |statuses: &[u16]| judge(Shape::Elastic, 200, &items(statuses), statuses.len());
        assert_eq!(judge(&[201, 409]), Reply::Taken);
        assert_eq!(judge(&[201, 400]), Reply::TakenBut(vec![(1, "400 \"e\"".to_owned())]));
        assert!(matches!(judge(&[201, 400, 429]), Reply::Later(_)));
        assert!(matches!(judge(&[201, 503]), Reply::Later(_)));
        assert!(matches!(judge(&[403]), Reply::Refused(_)));
    }

    #[test]
    fn an_answer_that_is_not_understood_confirms_nothing() {
        for body in ["", "{}", "<html>", &items(&[201])] {
            assert!(matches!(judge(Shape::Elastic, 200, body, 2), Reply::Later(_)), "{body}");
        }
        assert!(matches!(judge(Shape::Hec, 302, "", 1), Reply::Later(_)));
        assert!(matches!(judge(Shape::Hec, 503, "busy", 1), Reply::Later(_)));
        assert!(matches!(judge(Shape::Hec, 401, "", 1), Reply::Refused(_)));
        assert!(matches!(judge(Shape::Hec, 400, "", 1), Reply::Wrong(_)));
    }
}
