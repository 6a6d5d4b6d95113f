//! ECS documents against the fields, types and allowed words of the public schema (`tests/schemas/ecs.tsv`).

use crate::{json, samples};
use lynceus_alerts::Format;
use serde_json::Value;
use std::collections::HashMap;

struct Field {
    kind: &'static str,
    array: bool,
    allowed: Vec<&'static str>,
}

fn schema() -> HashMap<&'static str, Field> {
    let lines = include_str!("../schemas/ecs.tsv").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut columns = line.split('\t');
            let mut next = || columns.next().unwrap_or_default();
            let (name, kind, array, allowed) = (next(), next(), next() == "array", next());
            (name, Field { kind, array, allowed: allowed.split_whitespace().collect() })
        })
        .collect()
}

/// Leaves with their dotted names. What is under `lynceus` is not ECS's.
fn leaves(prefix: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            fields.iter().filter(|(name, _)| *name != "lynceus").for_each(|(name, field)| {
                leaves(&format!("{prefix}{}{name}", if prefix.is_empty() { "" } else { "." }), field, out);
            })
        }
        other => out.push((prefix.to_owned(), other.clone())),
    }
}

fn errors(document: &Value) -> Vec<String> {
    let (schema, mut all, mut errors) = (schema(), Vec::new(), Vec::new());
    leaves("", document, &mut all);
    for (name, value) in all {
        let Some(field) = schema.get(name.as_str()) else {
            errors.push(format!("{name} is not in ECS"));
            continue;
        };
        let items = match value {
            Value::Array(items) if field.array => items,
            Value::Array(_) => {
                errors.push(format!("{name} is one value, not several"));
                continue;
            }
            other if field.array => {
                errors.push(format!("{name} is a list"));
                vec![other]
            }
            other => vec![other],
        };
        for item in items {
            let is_right = match field.kind {
                "long" => item.is_u64(),
                "date" => item.as_str().is_some_and(|text| humantime::parse_rfc3339(text).is_ok()),
                "ip" => item.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
                _ => item.is_string(),
            };
            if !is_right {
                errors.push(format!("{name} is no {}: {item}", field.kind));
            }
            if !field.allowed.is_empty() && !item.as_str().is_some_and(|word| field.allowed.contains(&word)) {
                errors.push(format!("{name} may not be {item}"));
            }
        }
    }
    for required in ["/@timestamp", "/ecs/version", "/event/kind", "/event/category", "/event/type"] {
        if document.pointer(required).is_none() {
            errors.push(format!("{required} is missing"));
        }
    }
    errors
}

#[test]
fn documents_are_as_the_schema_wants_them() {
    for alert in samples::all().iter().chain(&samples::with("\u{1b}[2J \"\\\n")) {
        let document = json(alert, Format::Ecs);
        assert_eq!(errors(&document), [""; 0], "{document:#}");
    }
}

#[test]
fn the_table_finds_mistakes() {
    let right = json(&samples::all()[0], Format::Ecs);
    for (pointer, wrong) in [
        ("/event/kind", Value::from("alarm")),
        ("/event/category", Value::from("host")),
        ("/event/severity", Value::from("high")),
        ("/@timestamp", Value::from("today")),
        ("/host", serde_json::json!({ "vm": "a" })),
    ] {
        let mut document = right.clone();
        *document.pointer_mut(pointer).expect("it is there") = wrong;
        assert!(!errors(&document).is_empty(), "{pointer}");
    }
}
