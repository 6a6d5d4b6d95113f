//! RFC 5424 messages, read by another project's parser.

use crate::{origin, samples};
use lynceus_alerts::encode::{line, syslog_frame, syslog_message};
use lynceus_alerts::{Alert, Format};
use lynceus_scanners::Severity;
use syslog_loose::{Protocol, SyslogFacility, SyslogSeverity, Variant, parse_message};

/// What the parser should say of an alert's message.
pub(crate) fn check(alert: &Alert, format: Format) {
    let message = syslog_message(alert, format, &origin());
    let read = parse_message(&message, Variant::RFC5424);
    assert_eq!(read.protocol, Protocol::RFC5424(1), "{message}");
    assert_eq!(read.facility, Some(SyslogFacility::LOG_LOCAL0));
    let severity = match alert.severity() {
        Severity::Low => SyslogSeverity::SEV_NOTICE,
        Severity::Medium => SyslogSeverity::SEV_WARNING,
        Severity::High => SyslogSeverity::SEV_ERR,
        Severity::Critical => SyslogSeverity::SEV_CRIT,
    };
    assert_eq!(read.severity, Some(severity));
    assert_eq!((read.hostname, read.appname), (Some("host-1"), Some("lynceus")));
    assert_eq!(read.msgid, Some(alert.kind()));
    assert_eq!(read.timestamp.map(|time| time.timestamp_millis() as u64), Some(alert.time_ms));
    assert_eq!(read.structured_data.len(), 1, "{message}");
    let data: Vec<(&str, String)> =
        read.structured_data[0].params().map(|(name, value)| (*name, value)).collect();
    let names: Vec<&str> = data.iter().map(|(name, _)| *name).collect();
    let expected = [Some("id"), alert.sequence.map(|_| "sequence"), alert.vm.as_ref().map(|_| "vm")];
    assert_eq!(names, expected.into_iter().flatten().collect::<Vec<_>>(), "{message}");
    assert_eq!(data[0].1, alert.id);
    assert_eq!(read.msg, line(alert, format, &origin()));
}

#[test]
fn messages_are_read_as_they_were_meant() {
    for alert in samples::all() {
        check(&alert, Format::Cef);
        check(&alert, Format::Json);
    }
}

#[test]
fn a_frame_has_the_length_in_bytes() {
    assert_eq!(syslog_frame("aü"), "3 aü".as_bytes());
}
