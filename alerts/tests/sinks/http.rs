//! HTTP receivers as Splunk and Elastic are, with their errors, over TLS and without.

use crate::world::{PATIENCE, alert, config, log, stats, told, trusted, until, until_state};
use anyhow::{Result, ensure};
use lynceus_alerts::{Format, Pipeline, Shape, SinkConfig, SinkKind, SinkState};
use lynceus_lab::siem::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A request.
#[derive(Clone)]
struct Request {
    authorization: String,
    lines: Vec<Value>,
}

/// What it answers to a request: status and body.
type Answer = dyn Fn(&Request) -> (u16, String) + Send + Sync;

/// A server for as long as the test runs.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(tls: Option<ServerConfig>, answer: Box<Answer>) -> Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (requests, tls) = (seen.clone(), tls.map(Arc::new));
        let answer: Arc<Answer> = answer.into();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (requests, tls, answer) = (requests.clone(), tls.clone(), answer.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &requests, &*answer),
                    Some(config) => {
                        let session = ServerConnection::new(config).expect("a session");
                        serve(StreamOwned::new(session, stream), &requests, &*answer)
                    }
                });
            }
        });
        Ok(Server { port, seen })
    }
    fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic").clone()
    }
}

/// Requests of one connection, until it ends.
fn serve(stream: impl Read + Write, seen: &Mutex<Vec<Request>>, answer: &Answer) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut len, mut authorization) = (0, String::new());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ") {
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => len = value.parse().ok()?,
                    "authorization" => authorization = value.to_owned(),
                    _ => {}
                }
            }
        }
        let mut body = vec![0; len];
        stream.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).ok()?;
        let lines = body.lines().map(|line| serde_json::from_str(line).expect("JSON a line")).collect();
        let request = Request { authorization, lines };
        let (status, text) = answer(&request);
        seen.lock().ok()?.push(request);
        write!(stream.get_mut(), "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{text}", text.len())
            .ok()?;
        stream.get_mut().flush().ok()?;
    }
}

fn sink(server: &Server, shape: Shape, format: Format) -> SinkConfig {
    let mut sink = SinkConfig::new("siem", SinkKind::Http);
    sink.address = Some(format!("http://127.0.0.1:{}/x", server.port));
    (sink.shape, sink.format, sink.down_after_s) = (shape, format, 0);
    sink
}

fn summary(number: u32) -> String {
    alert(number).summary().to_owned()
}

#[test]
fn splunk_gets_everything_after_it_was_busy_and_the_token_comes_along() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    std::fs::write(&token, "secret-1\n")?;
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600))?;
    let tries = Mutex::new(0);
    let server = Server::start(
        None,
        Box::new(move |_| {
            let mut tries = tries.lock().expect("no panic");
            *tries += 1;
            if *tries <= 2 {
                (503, r#"{"text":"Server is busy","code":9}"#.to_owned())
            } else {
                (200, r#"{"text":"Success","code":0}"#.to_owned())
            }
        }),
    )?;
    let mut siem = sink(&server, Shape::Hec, Format::Json);
    siem.token_file = Some(token);
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem, log(folder.path())]))?;
    pipeline.raise_all((0..20).map(alert).collect())?;
    until_state(&pipeline, "siem", SinkState::Up)?;
    until("the end is told", || told(folder.path(), "siem").len() == 2)?;
    let states: Vec<String> = told(folder.path(), "siem").into_iter().map(|(state, _)| state).collect();
    ensure!(states == ["down", "back"], "{states:?}");
    let taken = server.seen().split_off(2);
    let events: Vec<&Value> = taken.iter().flat_map(|request| &request.lines).collect();
    ensure!(taken.iter().all(|request| request.authorization == "Splunk secret-1"));
    for (number, event) in events.iter().take(20).enumerate() {
        ensure!(event["event"]["summary"] == summary(number as u32), "{event}");
        ensure!(event["sourcetype"] == "lynceus:alert" && event["time"].is_f64(), "{event}");
    }
    pipeline.close(PATIENCE);
    Ok(())
}

#[test]
fn a_wrong_event_is_found_and_the_others_are_taken() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = Arc::new(Mutex::new(Vec::new()));
    let kept = taken.clone();
    let server = Server::start(
        None,
        Box::new(move |request| {
            let wrong = summary(13);
            if request.lines.iter().any(|line| line["event"]["summary"] == wrong.as_str()) {
                return (400, r#"{"text":"Invalid data format","code":6}"#.to_owned());
            }
            kept.lock().expect("no panic").extend(request.lines.clone());
            (200, String::new())
        }),
    )?;
    let siem = sink(&server, Shape::Hec, Format::Json);
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem, log(folder.path())]))?;
    pipeline.raise_all((0..20).map(alert).collect())?;
    until("it is told", || told(folder.path(), "siem").len() == 1)?;
    let (state, words) = told(folder.path(), "siem").remove(0);
    ensure!(state == "rejected" && words.contains("Invalid data format"), "{state} {words}");
    ensure!(stats(&pipeline, "siem").rejected == 1);
    let summaries: Vec<Value> =
        taken.lock().expect("no panic").iter().map(|line| line["event"]["summary"].clone()).collect();
    for number in (0..20).filter(|number| *number != 13) {
        ensure!(summaries.contains(&Value::from(summary(number))), "{number} is lost");
    }
    pipeline.close(PATIENCE);
    Ok(())
}

/// Elastic: keeps documents by id, refuses one for good, is too busy for some the first time.
fn elastic(documents: Arc<Mutex<BTreeMap<String, Value>>>) -> Box<Answer> {
    let round = Mutex::new(0);
    Box::new(move |request| {
        let mut round = round.lock().expect("no panic");
        *round += 1;
        let mut documents = documents.lock().expect("no panic");
        let pairs = request.lines.chunks(2).enumerate();
        let items: Vec<Value> = pairs
            .map(|(place, pair)| {
                let id = pair[0]["create"]["_id"].as_str().expect("an id").to_owned();
                let is_known = documents.contains_key(&id);
                let status = match pair[1]["message"] == summary(7).as_str() {
                    true => 400,
                    false if *round == 1 && place % 2 == 1 => 429,
                    false if is_known => 409,
                    false => 201,
                };
                if status == 201 {
                    documents.insert(id, pair[1].clone());
                }
                json!({ "create": { "status": status, "error": { "type": "mapper_parsing_exception" } } })
            })
            .collect();
        (200, json!({ "errors": true, "items": items }).to_string())
    })
}

#[test]
fn elastic_gets_each_document_once_though_some_were_refused_at_first() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let documents = Arc::new(Mutex::new(BTreeMap::new()));
    let server = Server::start(None, elastic(documents.clone()))?;
    let siem = sink(&server, Shape::Elastic, Format::Ecs);
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem, log(folder.path())]))?;
    pipeline.raise_all((0..30).map(alert).collect())?;
    until("one is rejected", || stats(&pipeline, "siem").rejected == 1)?;
    let documents = documents.lock().expect("no panic").clone();
    let of_tasks = documents.values().filter(|document| document["event"]["kind"] == "alert").count();
    ensure!(of_tasks == 29, "{of_tasks}");
    ensure!(server.seen()[0].lines[0]["create"]["_index"] == "lynceus-alerts");
    pipeline.close(PATIENCE);
    Ok(())
}

#[test]
fn a_wrong_token_is_told_once_and_nothing_is_lost() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let allowed = Arc::new(Mutex::new(false));
    let switch = allowed.clone();
    let server =
        Server::start(
            None,
            Box::new(move |_| {
                if *switch.lock().expect("no panic") { (200, String::new()) } else { (403, String::new()) }
            }),
        )?;
    let siem = sink(&server, Shape::Lines, Format::Ocsf);
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem, log(folder.path())]))?;
    pipeline.raise(alert(1))?;
    until("it is tried several times", || stats(&pipeline, "siem").failed >= 3)?;
    ensure!(stats(&pipeline, "siem").state == SinkState::Refused);
    *allowed.lock().expect("no panic") = true;
    until("the end is told", || told(folder.path(), "siem").len() == 2)?;
    let states: Vec<String> = told(folder.path(), "siem").into_iter().map(|(state, _)| state).collect();
    ensure!(states == ["refused", "back"], "{states:?}");
    let taken = server.seen().split_off(stats(&pipeline, "siem").failed as usize);
    ensure!(taken.iter().flat_map(|request| &request.lines).any(|line| line["message"] == summary(1)));
    pipeline.close(PATIENCE);
    Ok(())
}

fn server_config(authority: &Authority, expired: bool) -> Result<ServerConfig> {
    let pair = authority.sign("server", "127.0.0.1", expired)?;
    let chain: Vec<_> = CertificateDer::pem_file_iter(&pair.cert)?.collect::<Result<_, _>>()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority.ca)?)?;
    let clients =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&pair.key)?)?)
}

/// Over TLS with certificates on both sides: the sink, and what the server saw.
fn over_tls(folder: &Path, expired: bool, show: bool) -> Result<(Pipeline, Server)> {
    let authority = Authority::new(folder, "ca")?;
    let server =
        Server::start(Some(server_config(&authority, expired)?), Box::new(|_| (200, String::new())))?;
    let client = authority.sign("client", "lynceus-host", false)?;
    let mut siem = sink(&server, Shape::Hec, Format::Json);
    siem.address = Some(format!("https://127.0.0.1:{}/services/collector/event", server.port));
    siem.tls = trusted(&authority, show.then_some(&client));
    let pipeline = Pipeline::open(&config(folder, vec![siem, log(folder)]))?;
    pipeline.raise(alert(1))?;
    Ok((pipeline, server))
}

#[test]
fn https_works_with_certificates_on_both_sides() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (pipeline, server) = over_tls(folder.path(), false, true)?;
    until_state(&pipeline, "siem", SinkState::Up)?;
    ensure!(server.seen().len() == 1);
    pipeline.close(PATIENCE);
    Ok(())
}

#[test]
fn https_refuses_an_expired_certificate() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (pipeline, server) = over_tls(folder.path(), true, true)?;
    until_state(&pipeline, "siem", SinkState::Refused)?;
    let error = stats(&pipeline, "siem").last_error.unwrap_or_default();
    ensure!(error.contains("expired") && server.seen().is_empty(), "{error}");
    pipeline.close(std::time::Duration::ZERO);
    Ok(())
}

#[test]
fn https_without_our_certificate_is_told_as_that() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (pipeline, server) = over_tls(folder.path(), false, false)?;
    until_state(&pipeline, "siem", SinkState::Refused)?;
    let error = stats(&pipeline, "siem").last_error.unwrap_or_default();
    ensure!(error.contains("CertificateRequired") && server.seen().is_empty(), "{error}");
    pipeline.close(std::time::Duration::ZERO);
    Ok(())
}

#[test]
fn a_receiver_that_is_not_there_is_told_as_that() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    ensure!(TcpStream::connect(closed).is_err());
    let mut siem = SinkConfig::new("siem", SinkKind::Http);
    siem.address = Some(format!("http://{closed}/"));
    siem.down_after_s = 0;
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem, log(folder.path())]))?;
    pipeline.raise(alert(1))?;
    until_state(&pipeline, "siem", SinkState::Down)?;
    until("it is told", || told(folder.path(), "siem").len() == 1)?;
    pipeline.close(std::time::Duration::ZERO);
    Ok(())
}
