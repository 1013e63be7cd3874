//! The committed vectors of the roles' payloads.

use std::fmt::Debug;

use super::super::tests::{assert_invalid, encoded};
use super::super::vectors::{bytes, vectors};
use super::*;
use crate::error::Result;
use crate::payload::Source;

/// Returns whether vectors of this kind are checked here.
pub(in super::super) fn has_vectors_of(kind: &str) -> bool {
    let kind = kind.strip_prefix("also-").or(kind.strip_prefix("not-")).unwrap_or(kind);
    ["chat-request", "chat-chunk", "rerank-request", "rerank-reply", "document", "page"]
        .contains(&kind)
}

/// A field of a vector: its key and its value.
type KeyValue = (&'static str, &'static str);

fn fields(fields: &[&'static str]) -> Vec<KeyValue> {
    fields.iter().map(|field| field.split_once('=').unwrap()).collect()
}

fn text(hex: &str) -> String {
    String::from_utf8(bytes(hex)).unwrap()
}

fn f32(bits: &str) -> f32 {
    f32::from_bits(u32::from_str_radix(bits, 16).unwrap())
}

fn list<T>(values: &str, parse: impl Fn(&str) -> T) -> Vec<T> {
    values.split(',').filter(|value| !value.is_empty()).map(parse).collect()
}

/// The last value of a key.
fn find(fields: &[KeyValue], key: &str) -> Option<&'static str> {
    fields.iter().rfind(|field| field.0 == key).map(|field| field.1)
}

fn number(fields: &[KeyValue], key: &str) -> Option<u32> {
    find(fields, key).map(|value| value.parse().unwrap())
}

/// Checks all vectors of a kind: `make` makes the value of its fields and encodes it, `decode`
/// decodes a value.
fn check<T: PartialEq + Debug>(
    kind: &str,
    make: impl Fn(&[KeyValue]) -> (T, Vec<u8>),
    decode: impl Fn(&[u8]) -> Result<T>,
) {
    for vector in vectors(kind) {
        let [name, middle @ .., encoding] = &vector[..] else { panic!("{vector:?}") };
        let (value, encoding_of_it) = make(&fields(middle));
        assert_eq!(encoding_of_it, bytes(encoding), "{kind} {name}");
        assert_eq!(decode(&encoding_of_it).unwrap(), value, "{kind} {name}");
    }
    for vector in vectors(&format!("also-{kind}")) {
        let [name, middle @ .., encoding] = &vector[..] else { panic!("{vector:?}") };
        let (value, encoding_of_it) = make(&fields(middle));
        assert_ne!(encoding_of_it, bytes(encoding), "{kind} {name}");
        assert_eq!(decode(&bytes(encoding)).unwrap(), value, "{kind} {name}");
    }
    for vector in vectors(&format!("not-{kind}")) {
        let [name, encoding] = vector[..] else { panic!("{vector:?}") };
        println!("{kind} {name}: {}", decode(&bytes(encoding)).expect_err(name));
        assert_invalid(decode(&bytes(encoding)), "");
    }
}

#[test]
fn chat_requests_are_encoded_and_decoded_as_in_the_vectors() {
    let make = |fields: &[KeyValue]| {
        let mut chat = ChatRequest::new([]);
        for (key, value) in fields.iter().copied() {
            let message = chat.messages.last_mut();
            match key {
                "role" => {
                    let role = ChatRole::from_name(value).unwrap();
                    chat.messages.push(ChatMessage::new(role, ""));
                }
                "content" => message.unwrap().content = text(value),
                "name" => message.unwrap().name = Some(text(value)),
                "tool_call_id" => message.unwrap().tool_call_id = Some(text(value)),
                "tool_calls" => message.unwrap().tool_calls = Some(text(value)),
                "max_tokens" => chat.max_tokens = Some(value.parse().unwrap()),
                "temperature" => chat.temperature = Some(f32(value)),
                "top_p" => chat.top_p = Some(f32(value)),
                "top_k" => chat.top_k = Some(value.parse().unwrap()),
                "seed" => chat.seed = Some(value.parse().unwrap()),
                "stop" => chat.stop.push(text(value)),
                "frequency_penalty" => chat.frequency_penalty = Some(f32(value)),
                "presence_penalty" => chat.presence_penalty = Some(f32(value)),
                "tools" => chat.tools = Some(text(value)),
                _ => panic!("{key}"),
            }
        }
        let encoding = encoded(&chat);
        (chat, encoding)
    };
    check("chat-request", make, ChatRequest::decode);
}

#[test]
fn chunks_of_chats_are_encoded_and_decoded_as_in_the_vectors() {
    let make = |fields: &[KeyValue]| {
        let text = find(fields, "text").map(text).unwrap_or_default();
        let end = find(fields, "finish_reason").map(|reason| ChatEnd {
            finish_reason: FinishReason::from_name(reason).unwrap(),
            prompt_tokens: number(fields, "prompt_tokens").unwrap(),
            completion_tokens: number(fields, "completion_tokens").unwrap(),
            tool_calls: find(fields, "tool_calls").map(self::text),
        });
        let chunk = ChatChunk { text: text.into(), end };
        let encoding = encoded(&chunk);
        (chunk, encoding)
    };
    let decode = |bytes: &[u8]| {
        let chunk = ChatChunk::decode(bytes);
        // A reply is a chunk with an end.
        match (&chunk, ChatReply::decode(bytes)) {
            (Ok(ChatChunk { text, end: Some(end) }), Ok(reply)) => {
                assert_eq!((&*reply.text, &reply.end), (&**text, end));
                assert_eq!(encoded(&reply), encoded(chunk.as_ref().unwrap()));
            }
            (Ok(ChatChunk { end: None, .. }), reply) => assert_invalid(reply, "no finish reason"),
            (_, reply) => assert_invalid(reply, ""),
        }
        chunk
    };
    check("chat-chunk", make, decode);
}

#[test]
fn rerank_requests_are_encoded_and_decoded_as_in_the_vectors() {
    let make = |fields: &[KeyValue]| {
        let query = find(fields, "query").map(text).unwrap();
        let documents = list(find(fields, "documents").unwrap(), text);
        let top_n = number(fields, "top_n");
        let mut request = RerankRequest::new(&query, &documents).unwrap();
        request = top_n.map_or(request, |n| request.top_n(n));
        ((query.clone(), documents.clone(), top_n), encoded(&request))
    };
    let decode = |bytes: &[u8]| {
        let mut query = RerankQuery { top_n: Some(9), ..RerankQuery::default() };
        let decoded = query.decode_from(bytes);
        let documents = query.documents.iter().map(str::to_owned).collect();
        if decoded.is_err() {
            assert_eq!(query, RerankQuery::default());
        }
        decoded.map(|()| (query.query, documents, query.top_n))
    };
    check("rerank-request", make, decode);
}

#[test]
fn rerank_replies_are_encoded_and_decoded_as_in_the_vectors() {
    for vector in vectors("rerank-reply") {
        let [name, documents, middle @ .., encoding] = &vector[..] else { panic!("{vector:?}") };
        let (documents, fields) = (documents.parse().unwrap(), fields(middle));
        let scores = list(find(&fields, "scores").unwrap(), f32);
        let indices = find(&fields, "indices").map(|indices| list(indices, |n| n.parse().unwrap()));
        let reply = RerankReply::decode(&bytes(encoding), documents).unwrap();
        assert_eq!((reply.scores(), reply.is_ranked()), (&scores[..], indices.is_some()), "{name}");
        let indices = indices.unwrap_or_else(|| (0..documents).collect::<Vec<_>>());
        assert!(reply.results().map(|result| result.index).eq(indices), "{name}");
        assert!(reply.results().map(|result| result.score).eq(scores), "{name}");
        assert_eq!(encoded(&reply), bytes(encoding), "{name}");
    }
    for vector in vectors("not-rerank-reply") {
        let [name, documents, encoding] = vector[..] else { panic!("{vector:?}") };
        let decoded = RerankReply::decode(&bytes(encoding), documents.parse().unwrap());
        println!("rerank-reply {name}: {}", decoded.as_ref().unwrap_err());
        assert_invalid(decoded, "");
    }
}

#[test]
fn documents_are_encoded_and_decoded_as_in_the_vectors() {
    let make = |fields: &[KeyValue]| {
        let mut options = DocumentOptions::new();
        options.pages = list(find(fields, "pages").unwrap_or_default(), |pages| {
            let (first, last) = pages.split_once('-').unwrap();
            first.parse().unwrap()..=last.parse().unwrap()
        });
        options.dpi = number(fields, "dpi");
        options.language = find(fields, "language").map(text);
        options.prompt = find(fields, "prompt").map(text);
        let media_type = find(fields, "media_type").map(text).unwrap();
        let content = find(fields, "bytes").map(bytes).unwrap();
        let encoding = encoded(&Document::new(&media_type, &content, &options).unwrap());
        ((media_type, options, content), encoding)
    };
    let decode = |bytes: &[u8]| {
        let reader = DocumentReader::new(bytes)?;
        assert_eq!(reader.bytes().len(), reader.bytes().to_vec()?.len());
        let content = reader.bytes().to_vec()?;
        Ok((reader.media_type().to_owned(), reader.options().clone(), content))
    };
    check("document", make, decode);
}

#[test]
fn pages_are_encoded_and_decoded_as_in_the_vectors() {
    let make = |fields: &[KeyValue]| {
        let text = find(fields, "text").map(text).unwrap();
        let page = Page::new(number(fields, "number").unwrap(), text);
        let page = number(fields, "total").map_or(page.clone(), |total| page.of_total(total));
        let encoding = encoded(&page);
        (page, encoding)
    };
    check("page", make, Page::decode);
}
