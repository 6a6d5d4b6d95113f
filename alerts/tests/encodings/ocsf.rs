//! OCSF events against the attributes, types, requirements and enumerations of the public schema (`tests/schemas/ocsf.json`).

use crate::{json, samples};
use lynceus_alerts::Format;
use serde_json::Value;

/// What is wrong with `value` as an instance of what `schema` describes.
fn check(at: &str, value: &Value, schema: &Value, all: &Value, errors: &mut Vec<String>) {
    let Some(fields) = value.as_object() else { return errors.push(format!("{at} is no object")) };
    let Some(attributes) = schema["attributes"].as_object() else {
        return errors.push(format!("{at}: the table lacks it"));
    };
    for (name, field) in fields {
        match attributes.get(name) {
            Some(attribute) => check_field(&format!("{at}.{name}"), field, attribute, all, errors),
            None => errors.push(format!("{at}.{name} is not in the schema")),
        }
    }
    for (name, attribute) in attributes {
        if attribute["required"] == true && !fields.contains_key(name) {
            errors.push(format!("{at}.{name} is required"));
        }
    }
    if let Some(some) = schema["constraints"]["at_least_one"].as_array() {
        let there = some.iter().filter_map(Value::as_str).any(|name| fields.contains_key(name));
        if !there {
            errors.push(format!("{at} needs one of {some:?}"));
        }
    }
}

fn check_field(at: &str, field: &Value, attribute: &Value, all: &Value, errors: &mut Vec<String>) {
    if attribute["array"] == true {
        let Some(items) = field.as_array() else { return errors.push(format!("{at} is no array")) };
        for item in items {
            check_one(at, item, attribute, all, errors);
        }
    } else {
        check_one(at, field, attribute, all, errors);
    }
}

fn check_one(at: &str, field: &Value, attribute: &Value, all: &Value, errors: &mut Vec<String>) {
    let kind = attribute["type"].as_str().expect("the table has types");
    let is_right = match kind {
        "integer_t" | "port_t" => field.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        "long_t" | "timestamp_t" => field.is_i64() || field.is_u64(),
        "boolean_t" => field.is_boolean(),
        "object" => field.is_object(),
        "ip_t" => field.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
        _ if kind.ends_with("_t") => field.is_string(),
        _ => {
            check(at, field, &all["objects"][kind], all, errors);
            true
        }
    };
    if !is_right {
        errors.push(format!("{at} is no {kind}: {field}"));
    }
    if attribute["enum"].as_array().is_some_and(|allowed| !allowed.contains(field)) {
        errors.push(format!("{at} may not be {field}"));
    }
}

/// What is wrong with an event, by the table.
fn errors(event: &Value, schema: &Value) -> Vec<String> {
    let class = match event["class_uid"].as_u64() {
        Some(2004) => "detection_finding",
        Some(4001) => "network_activity",
        Some(0) => "base_event",
        other => return vec![format!("class {other:?}")],
    };
    let mut errors = Vec::new();
    check(class, event, &schema["classes"][class], schema, &mut errors);
    let uid = event["class_uid"].as_u64().unwrap_or(1) * 100 + event["activity_id"].as_u64().unwrap_or(1);
    if event["type_uid"].as_u64() != Some(uid) {
        errors.push("type_uid is not class_uid * 100 + activity_id".to_owned());
    }
    errors
}

fn schema() -> Value {
    serde_json::from_str(include_str!("../schemas/ocsf.json")).expect("the table is JSON")
}

#[test]
fn events_are_as_the_schema_wants_them() {
    let schema = schema();
    for alert in samples::all().iter().chain(&samples::with("\u{1b}[2J \"\\\n")) {
        let event = json(alert, Format::Ocsf);
        assert_eq!(errors(&event, &schema), [""; 0], "{event:#}");
    }
}

/// The table finds mistakes: otherwise the test above would say nothing.
#[test]
fn the_table_finds_mistakes() {
    let schema = schema();
    let right = json(&samples::all()[0], Format::Ocsf);
    for (pointer, wrong) in [
        ("/severity_id", Value::from(9)),
        ("/time", Value::from("today")),
        ("/metadata", serde_json::json!({})),
        ("/finding_info/uid", Value::Null),
        ("/category_uid", Value::from(4)),
        ("/is_alert", Value::from(1)),
    ] {
        let mut event = right.clone();
        *event.pointer_mut(pointer).expect("it is there") = wrong;
        assert!(!errors(&event, &schema).is_empty(), "{pointer}");
    }
}
