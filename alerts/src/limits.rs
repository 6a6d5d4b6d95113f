//! How long an alert may be.
//!
//! *Does*: cuts strings and lists of an alert that is too long until it is not, and marks it.
//! *Never*: cuts an alert that fits, or a character in two.

use crate::alert::Alert;
use serde_json::Value;

/// An alert's JSON is at most this long. A guest decides how long its names are.
pub const MAX_ALERT_BYTES: usize = 32 << 10;
/// What strings (bytes) and lists (items) are cut to, in turn, until the alert fits.
const CUTS: [(usize, usize); 4] = [(2048, 64), (512, 16), (128, 4), (40, 1)];

/// The alert's JSON, cut to [`MAX_ALERT_BYTES`] where it is longer.
pub(crate) fn bounded_json(alert: &mut Alert) -> Result<Vec<u8>, serde_json::Error> {
    let json = serde_json::to_vec(alert)?;
    if json.len() <= MAX_ALERT_BYTES {
        return Ok(json);
    }
    shorten(alert, json)
}

#[cold]
fn shorten(alert: &mut Alert, mut json: Vec<u8>) -> Result<Vec<u8>, serde_json::Error> {
    alert.shortened = true;
    let whole = serde_json::to_value(&*alert)?;
    for (bytes, items) in CUTS {
        let mut value = whole.clone();
        cut(&mut value, bytes, items);
        json = serde_json::to_vec(&value)?;
        if json.len() <= MAX_ALERT_BYTES {
            break;
        }
    }
    *alert = serde_json::from_slice(&json)?;
    Ok(json)
}

fn cut(value: &mut Value, bytes: usize, items: usize) {
    match value {
        Value::String(text) if text.len() > bytes => *text = format!("{}…", prefix(text, bytes)),
        // Pairs stay pairs: they are names with their values.
        Value::Array(list) => {
            list.truncate(items.max(2));
            list.iter_mut().for_each(|item| cut(item, bytes, items));
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| cut(field, bytes, items)),
        _ => {}
    }
}

/// The longest beginning of `text` that has at most `bytes` bytes and only whole characters.
pub(crate) fn prefix(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}
