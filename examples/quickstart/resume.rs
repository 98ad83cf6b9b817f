//! How far each source was sent: the stream itself knows.

use std::collections::HashMap;

use anyhow::Result;
use bytes::Bytes;
use flowstream::{Flowstream, Message};

use crate::STREAM;
use crate::input::{LINE, SOURCE, Source};
use crate::progress::grouped;

/// How many messages are looked at together.
const STEP: u64 = 4096;

/// Finds the last line of each source in the stream, from the end backwards.
///
/// The lines of a source stand in their order. So if line 1,000 is 999 messages behind line 1,
/// there is nothing else in between, and one look at each end is enough for all of them: even
/// a large stream takes only a few reads.
pub(crate) async fn find(flow: &Flowstream, mut sources: Vec<Source>) -> Result<Vec<Source>> {
    let mut wanted: HashMap<Bytes, &mut Source> = sources
        .iter_mut()
        .filter(|source| !source.is_stdin())
        .map(|source| (source.name.clone(), source))
        .collect();
    let bounds = flow.bounds(STREAM).await?;
    let (start, mut end) = (bounds[0].start, bounds[0].end);
    while end > start && !wanted.is_empty() {
        let from = end.saturating_sub(STEP).max(start);
        let page = page(flow, from, end).await?;
        for (_, message) in page.iter().rev() {
            let Some((name, line)) = place(message) else {
                continue;
            };
            if let Some(source) = wanted.remove(name) {
                source.sent = line;
                source.last = Some(Bytes::copy_from_slice(message.body()));
            }
        }
        end = match page.first() {
            Some((offset, message)) => first_of_run(flow, *offset, start, message).await?,
            None => from,
        };
    }
    Ok(sources)
}

/// Where the lines begin that stand together with this one.
async fn first_of_run(
    flow: &Flowstream,
    offset: u64,
    start: u64,
    message: &Message,
) -> Result<u64> {
    let Some((name, line)) = place(message) else {
        return Ok(offset);
    };
    // They go back `near` messages for certain, and `far` at most. Mostly it is `far`.
    let (mut near, mut far) = (0, (line - 1).min(offset - start));
    let mut back = far;
    while near < far {
        let page = flow.read(STREAM, 0, offset - back).await?;
        let is_of_run = page.first().is_some_and(|(at, first)| {
            *at == offset - back && place(first) == Some((name, line - back))
        });
        if is_of_run {
            near = back;
        } else {
            far = back - 1;
        }
        back = near + (far - near).div_ceil(2);
    }
    Ok(offset - near)
}

/// The messages of a range of offsets.
async fn page(flow: &Flowstream, from: u64, end: u64) -> Result<Vec<(u64, Message)>> {
    let mut page: Vec<(u64, Message)> = Vec::new();
    loop {
        let next = page.last().map_or(from, |(offset, _)| offset + 1);
        let more = flow.read(STREAM, 0, next).await?;
        if next >= end || more.is_empty() {
            return Ok(page);
        }
        page.extend(more.into_iter().take_while(|(offset, _)| *offset < end));
    }
}

/// The source and the number of the line; `None` if somebody else sent this message.
fn place(message: &Message) -> Option<(&[u8], u64)> {
    let source = message.headers().get(SOURCE)?;
    let line = std::str::from_utf8(message.headers().get(LINE)?).ok()?;
    let line = line.parse().ok().filter(|line| *line > 0)?;
    Some((source, line))
}

/// Says where it goes on.
pub(crate) fn describe(sources: &[Source]) {
    let lines: u64 = sources.iter().map(|source| source.sent).sum();
    let title = match sources {
        [source] if source.is_stdin() => {
            println!("the standard input cannot be read again: each run is a new source");
            return;
        }
        [source] => source.title(),
        sources => format!("{} files", sources.len()),
    };
    match grouped(lines).as_str() {
        "0" => println!("{title}: new to the stream"),
        lines => println!("{title}: {lines} lines are in the stream; going on behind them"),
    }
}
