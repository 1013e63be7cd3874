//! A worker that serves the four roles of a model server, with typed payloads: it embeds texts,
//! streams chats, reranks documents and reads pages. And a host that asks for each.
//!
//!     cargo run --example role_worker
//!
//! The "models" are toys; what matters is what goes to them and comes back.

use std::time::Duration;

use slipring::payload::roles::{
    ChatChunk, ChatEnd, ChatMessage, ChatReply, ChatRequest, ChatStream, Document, DocumentOptions,
    DocumentReader, FinishReason, Page, RerankQuery, RerankReply, RerankRequest,
};
use slipring::payload::{Matrix, MatrixReader, TextBatch, Texts};
use slipring::worker::{self, Done, HandlerError, Request, Responder, Worker};
use slipring::{Channel, Kind, Spawner, StreamTimeouts};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Numbers in a vector that stands for a text.
const DIM: usize = 4;

type Handled = Result<Done, HandlerError>;

fn main() -> slipring::Result<()> {
    if worker::is_worker() {
        return Worker::new(|_role| Ok(()))
            .on(Kind::EMBED, embed)
            .on(Kind::CHAT, chat)
            .on(Kind::RERANK, rerank)
            .on(Kind::VISION, read_pages)
            .serve();
    }
    let channel = Spawner::current_exe()?.role("all").spawn()?;
    ask_for_vectors(&channel)?;
    ask_for_chat(&channel)?;
    ask_for_scores(&channel)?;
    ask_for_pages(&channel)?;
    channel.close(TIMEOUT)?;
    Ok(())
}

fn ask_for_vectors(channel: &Channel) -> slipring::Result<()> {
    let texts = TextBatch::new(&["slip ring", "slip"])?;
    let reply = channel.call(Kind::EMBED, &texts, TIMEOUT)?;
    let vectors = MatrixReader::new(&reply)?;
    let mut vector = [0.0; DIM];
    for index in 0..vectors.rows() {
        vectors.copy_row(index, &mut vector)?;
        println!("embed: text {index} is {vector:?}");
    }
    Ok(())
}

fn ask_for_chat(channel: &Channel) -> slipring::Result<()> {
    let mut request = ChatRequest::new([
        ChatMessage::system("Repeat what the user says."),
        ChatMessage::user("round and round it goes"),
    ]);
    // As a whole:
    let reply = ChatReply::decode(&channel.call(Kind::CHAT, &request, TIMEOUT)?)?;
    println!("chat: {}, {}", reply.text, reply.end.finish_reason);
    // Token by token:
    request.max_tokens = Some(3);
    print!("chat:");
    for chunk in ChatStream::new(channel.stream(Kind::CHAT, &request, StreamTimeouts::default())?) {
        let chunk = chunk?;
        print!("{}", chunk.text);
        if let Some(end) = chunk.end {
            let (read, written) = (end.prompt_tokens, end.completion_tokens);
            println!(", {}: {read} tokens read, {written} written", end.finish_reason);
        }
    }
    Ok(())
}

fn ask_for_scores(channel: &Channel) -> slipring::Result<()> {
    let documents = ["the ring of a bell", "a ring that slips", "a slip of paper", "a belt"];
    let request = RerankRequest::new("ring that turns", &documents)?;
    let reply = channel.call(Kind::RERANK, &request, TIMEOUT)?;
    println!("rerank: {:?}", RerankReply::decode(&reply, documents.len())?.scores());
    let reply = channel.call(Kind::RERANK, &request.top_n(2), TIMEOUT)?;
    for best in RerankReply::decode(&reply, documents.len())?.results() {
        println!("rerank: {:?} has {}", documents[best.index], best.score);
    }
    Ok(())
}

fn ask_for_pages(channel: &Channel) -> slipring::Result<()> {
    let mut options = DocumentOptions::new();
    options.pages = vec![1..=1, 3..=9];
    let document = Document::new("text/plain", b"title\x0ccontents\x0cchapter one", &options)?;
    for page in channel.stream(Kind::VISION, &document, StreamTimeouts::default())? {
        let page = Page::decode(&page?)?;
        println!("vision: page {} of {:?}: {}", page.number, page.total, page.text);
    }
    Ok(())
}

/// A vector counts the letters of a text by what is left of their codes.
fn embed(_: &mut (), request: &Request, responder: Responder) -> Handled {
    let texts = Texts::decode(request)?;
    let mut vectors = vec![0.0_f32; texts.len() * DIM];
    for (text, vector) in texts.iter().zip(vectors.chunks_mut(DIM)) {
        text.bytes().for_each(|byte| vector[usize::from(byte) % DIM] += 1.0);
    }
    Ok(responder.send(&Matrix::f32(texts.len(), DIM, &vectors)?)?)
}

/// Says again what the last message says. A token is a word and the space before it.
fn chat(_: &mut (), request: &Request, responder: Responder) -> Handled {
    let chat = ChatRequest::decode(request)?;
    let read = chat.messages.iter().map(|message| message.content.split(' ').count()).sum();
    let last = chat.messages.last().map(|message| &*message.content).unwrap_or_default();
    let allowed = chat.max_tokens.map_or(usize::MAX, |tokens| tokens as usize);
    let tokens: Vec<String> =
        last.split(' ').take(allowed).map(|word| format!(" {word}")).collect();
    let is_whole = tokens.len() == last.split(' ').count();
    let reason = if is_whole { FinishReason::Stop } else { FinishReason::Length };
    let end = ChatEnd::new(reason, u32_of(read), u32_of(tokens.len()));
    if !request.is_stream() {
        return Ok(responder.send(&ChatReply::new(tokens.concat().trim_start(), end))?);
    }
    let mut stream = responder.stream();
    for token in tokens {
        request.check_cancelled()?;
        stream.send(&ChatChunk::delta(token))?;
    }
    stream.send(&ChatChunk::last(end))?;
    Ok(stream.end()?)
}

/// A document's score is the part of the query's words that it has.
fn rerank(_: &mut (), request: &Request, responder: Responder) -> Handled {
    let RerankQuery { query, documents, top_n, .. } = RerankQuery::decode(request)?;
    let words: Vec<&str> = query.split(' ').collect();
    let score = |document: &str| {
        let found = words.iter().filter(|word| document.split(' ').any(|other| other == **word));
        found.count() as f32 / words.len() as f32
    };
    Ok(responder.send(&RerankReply::new(documents.iter().map(score).collect(), top_n)?)?)
}

/// "Reads" a text, whose pages are separated by form feeds.
fn read_pages(_: &mut (), request: &Request, responder: Responder) -> Handled {
    let document = DocumentReader::new(request)?;
    if document.media_type() != "text/plain" {
        let message = format!("cannot read {}", document.media_type());
        return Err(HandlerError::new("UnknownMediaType", message));
    }
    // A decoder of images would read the bytes where they lie, through a `PayloadReader`.
    let text = String::from_utf8_lossy(&document.bytes().to_vec()?).into_owned();
    let total = u32_of(text.split('\x0c').count());
    let mut stream = responder.stream();
    for (number, text) in (1..).zip(text.split('\x0c')) {
        if document.options().has_page(number) {
            stream.send(&Page::new(number, text).of_total(total))?;
        }
    }
    Ok(stream.end()?)
}

fn u32_of(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
