//! `logs`: what a function's containers print, through the API.

use bytes::BytesMut;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use crate::args::Logs;
use crate::client::{self, ClientError};
use crate::error::Error;
use crate::output::Output;
use crate::terminal::escaped;

/// The API's records are at most 16 KiB, and may be six times that as JSON.
const LONGEST_LINE: usize = 1 << 20;

/// One record, as shown with `-o json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    time: String,
    container_id: String,
    stream: String,
    /// Whether it ends a line.
    full: bool,
    line: String,
}

pub(crate) async fn run(args: Logs, output: &mut Output<'_>) -> Result<(), Error> {
    let mut path = format!("/function/{}/logs?follow={}", args.id, args.follow);
    if let Some(lines) = args.tail {
        path.push_str(&format!("&tail={lines}"));
    }
    if let Some(since) = &args.since {
        path.push_str("&since=");
        path.push_str(&bismuth_operator::segment(since));
    }
    let accept = if args.follow {
        "text/event-stream"
    } else {
        "text/plain"
    };
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
    let body = Empty::new().map_err(|never| match never {}).boxed();
    let (response, address) = client::send(&args.api, &path, Method::GET, headers, body).await?;
    let response = client::refusal(response).await?;
    if let Some(missing) = response.headers().get("x-bismuth-incomplete") {
        eprintln!(
            "some logs are missing: {}",
            escaped(&String::from_utf8_lossy(missing.as_bytes()))
        );
    }
    let mut lines = Lines {
        body: response.into_body(),
        buffer: BytesMut::new(),
        address,
    };
    let mut printer = Printer {
        timestamps: args.timestamps,
        prefix: args.prefix,
        open: None,
    };
    if args.follow {
        follow(&mut lines, &mut printer, output).await
    } else {
        all(&mut lines, &mut printer, output).await
    }
}

async fn all(
    lines: &mut Lines,
    printer: &mut Printer,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    while let Some(line) = lines.next().await? {
        match parse(&line) {
            Some((record, content)) => printer.print(&record, content, output)?,
            None => return Err(Error::LogBroken("a line is not a record".to_owned())),
        }
    }
    printer.finish(output)
}

/// Server-sent events: lines of `field: value`, an event ends with an empty one.
async fn follow(
    lines: &mut Lines,
    printer: &mut Printer,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let (mut event, mut data) = (String::new(), String::new());
    while let Some(line) = lines.next().await? {
        let line = String::from_utf8_lossy(&line);
        if let Some(name) = line.strip_prefix("event:") {
            event = name.trim().to_owned();
        } else if let Some(text) = line.strip_prefix("data:") {
            data = text.trim_start().to_owned();
        } else if line.is_empty() {
            match (event.as_str(), data.as_str()) {
                ("", "") => {}
                ("", record) => {
                    let record: Record = serde_json::from_str(record)
                        .map_err(|error| Error::LogBroken(error.to_string()))?;
                    printer.print(&record, record.line.as_bytes(), output)?;
                }
                ("end", reason) => {
                    eprintln!("the log ends: {}", escaped(reason));
                    return printer.finish(output);
                }
                (other, text) => eprintln!("{}: {}", escaped(other), escaped(text)),
            }
            event.clear();
            data.clear();
        }
    }
    Err(Error::LogBroken("the API closed the connection".to_owned()))
}

/// Cuts an answer into lines.
struct Lines {
    body: Incoming,
    buffer: BytesMut,
    address: String,
}

impl Lines {
    /// The next line without its line feed; `None` at the end.
    async fn next(&mut self) -> Result<Option<BytesMut>, Error> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let mut line = self.buffer.split_to(at + 1);
                line.truncate(at);
                return Ok(Some(line));
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(Error::LogBroken(format!(
                    "a line of more than {LONGEST_LINE} bytes"
                )));
            }
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Error::LogBroken("in the middle of a line".to_owned())),
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_default()),
                Some(Err(source)) => {
                    return Err(ClientError::Exchange {
                        address: self.address.clone(),
                        source,
                    }
                    .into());
                }
            }
        }
    }
}

/// `TIME CONTAINER STREAM F|P CONTENT`; the content apart, because it need not be text.
fn parse(line: &[u8]) -> Option<(Record, &[u8])> {
    let mut parts = line.splitn(5, |b| *b == b' ');
    let mut text = || std::str::from_utf8(parts.next()?).ok().map(str::to_owned);
    let (time, container_id, stream, tag) = (text()?, text()?, text()?, text()?);
    let content = parts.next()?;
    let full = match tag.as_str() {
        "F" => true,
        "P" => false,
        _ => return None,
    };
    let line = String::from_utf8_lossy(content).into_owned();
    Some((
        Record {
            time,
            container_id,
            stream,
            full,
            line,
        },
        content,
    ))
}

/// Puts the parts of long lines together again, as far as no other container prints in between.
struct Printer {
    timestamps: bool,
    prefix: bool,
    /// Whose line is not ended yet.
    open: Option<(String, String)>,
}

impl Printer {
    fn print(
        &mut self,
        record: &Record,
        content: &[u8],
        output: &mut Output<'_>,
    ) -> Result<(), Error> {
        if output.is_json() {
            return output.json_line(record);
        }
        let from = (record.container_id.clone(), record.stream.clone());
        let mut line = Vec::with_capacity(content.len() + 80);
        let open = self.open.take();
        let goes_on = open.as_ref() == Some(&from);
        if open.is_some() && !goes_on {
            line.push(b'\n');
        }
        if self.timestamps && !goes_on {
            line.extend_from_slice(record.time.as_bytes());
            line.push(b' ');
        }
        if self.prefix && !goes_on {
            line.extend_from_slice(
                format!("{} {} ", record.container_id, record.stream).as_bytes(),
            );
        }
        line.extend_from_slice(content);
        if record.full {
            line.push(b'\n');
        } else {
            self.open = Some(from);
        }
        output.bytes(&line)
    }

    fn finish(&mut self, output: &mut Output<'_>) -> Result<(), Error> {
        if self.open.take().is_some() {
            output.bytes(b"\n")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    const TIME: &str = "2026-01-02T03:04:05.678901234Z";

    fn printed(lines: &[&str], timestamps: bool, prefix: bool, format: Format) -> String {
        let mut out = Vec::new();
        let mut output = Output::new(format, &mut out);
        let mut printer = Printer {
            timestamps,
            prefix,
            open: None,
        };
        for line in lines {
            let line = format!("{TIME} {line}");
            let (record, content) = parse(line.as_bytes()).unwrap();
            printer.print(&record, content, &mut output).unwrap();
        }
        printer.finish(&mut output).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_parts_of_a_long_line_are_joined() {
        let lines = ["a stdout P one ", "a stdout F two", "b stdout F three"];
        assert_eq!(
            printed(&lines, false, false, Format::Table),
            "one two\nthree\n"
        );
        assert_eq!(
            printed(&lines, false, true, Format::Table),
            "a stdout one two\nb stdout three\n"
        );
        assert_eq!(
            printed(&["a stdout P open"], true, false, Format::Table),
            format!("{TIME} open\n")
        );
    }

    #[test]
    fn a_record_of_another_container_starts_its_own_line() {
        let lines = ["a stdout P one ", "b stdout F three", "a stdout F two"];
        assert_eq!(
            printed(&lines, false, false, Format::Table),
            "one \nthree\ntwo\n"
        );
    }

    #[test]
    fn json_is_one_object_per_line() {
        let text = printed(&["a stderr F x"], false, false, Format::Json);
        assert_eq!(
            text,
            format!(
                "{{\"time\":\"{TIME}\",\"container_id\":\"a\",\"stream\":\"stderr\",\"full\":true,\"line\":\"x\"}}\n"
            )
        );
    }
}
