//! HTTP receivers: Splunk's Event Collector, Elastic's bulk interface, or plain lines.
//!
//! *Does*: one request for each batch. Acknowledged means: the receiver answered 2xx, and Elastic's answer says so of each document. A batch that is
//! refused as wrong is halved until the alert that is wrong is found.
//! *Trusts*: nothing in an answer but its status and, bounded, Elastic's list of outcomes.
//! *Never*: follows a redirection with the token, or drops an alert because others of its batch were refused.

use super::http_replies::{self, Reply};
use super::{Event, Rejected, Sink, SinkError, tls};
use crate::config::{Format, Shape, SinkConfig};
use crate::encode::Origin;
use crate::limits::prefix;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_ANSWER_BYTES: u64 = 4 << 20;
const DEFAULT_INDEX: &str = "lynceus-alerts";

pub(super) struct Http {
    agent: Agent,
    url: String,
    shape: Shape,
    format: Format,
    index: String,
    authorization: Option<String>,
    hostname: String,
}

impl Http {
    pub(super) fn open(config: &SinkConfig, origin: &Origin) -> Result<Http, SinkError> {
        let url = config.address.clone().unwrap_or_default();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_PATIENCE))
            .timeout_global(Some(PATIENCE))
            .user_agent(format!("lynceus/{}", origin.version))
            // Nobody asked for the proxy that this process's environment may name.
            .proxy(None)
            .tls_config(if url.starts_with("https:") { trust(config)? } else { TlsConfig::default() })
            .build()
            .new_agent();
        let token = config.token_file.as_ref().map(std::fs::read_to_string).transpose();
        let token = token.map_err(|error| SinkError::io("cannot read the token", &error))?;
        let scheme = match config.shape {
            Shape::Hec => "Splunk",
            Shape::Elastic => "ApiKey",
            Shape::Lines => "Bearer",
        };
        Ok(Http {
            agent,
            url,
            shape: config.shape,
            format: config.format,
            index: config.index.clone().unwrap_or_else(|| DEFAULT_INDEX.to_owned()),
            authorization: token.map(|token| format!("{scheme} {}", token.trim())),
            hostname: origin.hostname.clone(),
        })
    }
    fn body(&self, events: &[Event]) -> String {
        let mut body = String::new();
        for event in events {
            match self.shape {
                Shape::Lines => body.push_str(&event.text),
                Shape::Hec => body.push_str(&self.collected(event)),
                Shape::Elastic => {
                    // With an id of its own, what is sent twice is there once.
                    let id = format!("{}-{}", event.alert.id, event.alert.sequence.unwrap_or_default());
                    let action = json!({ "create": { "_index": self.index, "_id": id } });
                    body.push_str(&format!("{action}\n{}", event.text));
                }
            }
            body.push('\n');
        }
        body
    }
    /// The envelope of Splunk's Event Collector.
    fn collected(&self, event: &Event) -> String {
        let time = event.alert.time_ms;
        let content = match self.format {
            Format::Cef => Value::String(event.text.clone()).to_string(),
            _ => event.text.clone(),
        };
        let host = Value::from(self.hostname.as_str());
        let sourcetype = match self.format {
            Format::Json => "lynceus:alert",
            Format::Ecs => "lynceus:ecs",
            Format::Ocsf => "lynceus:ocsf",
            Format::Cef => "cef",
        };
        format!(
            r#"{{"time":{}.{:03},"host":{host},"source":"lynceus","sourcetype":"{sourcetype}","event":{content}}}"#,
            time / 1000,
            time % 1000,
        )
    }
    fn post(&self, events: &[Event]) -> Result<Reply, SinkError> {
        let kind = match self.shape {
            Shape::Hec => "application/json",
            Shape::Elastic | Shape::Lines => "application/x-ndjson",
        };
        let mut request = self.agent.post(&self.url).header("Content-Type", kind);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut answer = request.send(self.body(events)).map_err(|error| self.failed(error))?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string();
        let text = text.map_err(|error| self.failed(error))?;
        Ok(http_replies::judge(self.shape, status, &text, events.len()))
    }
    fn failed(&self, error: ureq::Error) -> SinkError {
        let doing = format!("cannot send to {}", self.url);
        match &error {
            ureq::Error::Rustls(tls) => tls::rejected(&doing, tls),
            ureq::Error::Io(io) => tls::failed(&doing, io),
            _ => SinkError::Later(format!("{doing}: {error}")),
        }
    }
}

impl Sink for Http {
    fn deliver(&mut self, events: &[Event]) -> Result<Vec<Rejected>, SinkError> {
        let at = |text: String| format!("{}: {text}", self.url);
        match self.post(events)? {
            Reply::Taken => Ok(Vec::new()),
            Reply::TakenBut(rejected) => {
                let events = rejected.into_iter().filter_map(|(at, why)| Some((events.get(at)?, why)));
                Ok(events.map(|(event, why)| Rejected::of(event, why)).collect())
            }
            Reply::Later(reason) => Err(SinkError::Later(at(reason))),
            Reply::Refused(reason) => Err(SinkError::Refused(at(reason))),
            Reply::Wrong(reason) => match events {
                [] => Ok(Vec::new()),
                [event] => Ok(vec![Rejected::of(event, prefix(&reason, 200))]),
                events => {
                    let (first, second) = events.split_at(events.len() / 2);
                    let mut rejected = self.deliver(first)?;
                    rejected.extend(self.deliver(second)?);
                    Ok(rejected)
                }
            },
        }
    }
}

fn trust(config: &SinkConfig) -> Result<TlsConfig, SinkError> {
    // Looked at first: ureq takes a key that is not the certificate's for a mistake of ours, and panics.
    tls::client(&config.tls).map_err(|error| SinkError::Refused(error.to_string()))?;
    let identity = tls::load(&config.tls).map_err(|error| SinkError::Refused(error.to_string()))?;
    let roots: Vec<_> = identity.ca.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let own = match (&config.tls.key, &identity.own) {
        (Some(path), Some((chain, _))) => {
            let chain: Vec<_> = chain.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
            let pem = std::fs::read(path).map_err(|error| SinkError::io("cannot read the key", &error))?;
            let key = PrivateKey::from_pem(&pem).map_err(|error| SinkError::Refused(error.to_string()))?;
            Some(ClientCert::new_with_certs(&chain, key))
        }
        _ => None,
    };
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .client_cert(own)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}
