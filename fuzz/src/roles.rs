//! Checks of the roles' payloads: whatever a decoder accepts, it decodes to the same value again
//! after it was encoded. The encoding may be another one: unknown fields are gone, and all others
//! are in the order of the library.

use slipring::payload::roles::{
    ChatChunk, ChatCollector, ChatReply, ChatRequest, ChatStream, Document, DocumentReader, Page,
    RerankQuery, RerankReply, RerankRequest, Utf8Decoder,
};
use slipring::payload::{PayloadReader, Source};
use slipring::{ErrorKind, Result};

use crate::payloads::{Unsteady, check_refusal, encode};

/// Decodes the input, after its first byte, as the payload that this byte chooses; also cut, and
/// while it changes.
pub fn roles(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let documents = usize::from(choice / 6);
    let check: &dyn Fn(&dyn Source) -> Result<()> = match choice % 6 {
        0 => &chat_request,
        1 => &chat_chunk,
        2 => &rerank_request,
        3 => &|source| rerank_reply(source, documents),
        4 => &document,
        _ => &page,
    };
    let check = |source: &dyn Source| check(source).unwrap_or_else(|error| check_refusal(&error));
    check(&data);
    if let Some((_, shorter)) = data.split_last() {
        check(&shorter);
    }
    for source in Unsteady::both_ways(data) {
        check(&source);
    }
    utf8_decoder(data, usize::from(*choice));
}

fn chat_request(source: &dyn Source) -> Result<()> {
    let chat = ChatRequest::decode(source)?;
    assert!(!chat.messages.is_empty());
    assert!(chat.temperature.is_none_or(f32::is_finite) && chat.top_p.is_none_or(f32::is_finite));
    assert_eq!(ChatRequest::decode(&encode(&chat)).expect("what was encoded"), chat);
    Ok(())
}

fn chat_chunk(source: &dyn Source) -> Result<()> {
    let chunk = ChatChunk::decode(source)?;
    let encoding = encode(&chunk);
    assert_eq!(ChatChunk::decode(&encoding).expect("what was encoded"), chunk);

    let mut collector = ChatCollector::new();
    assert_eq!(collector.push(&encoding).expect("a first chunk"), chunk.text);
    let whole = collector.finish();
    let read = ChatStream::new([Ok(&encoding)].into_iter()).collect_reply();
    if chunk.end.is_some() {
        let reply = ChatReply::decode(&encoding).expect("a chunk with an end");
        assert_eq!(encode(&reply), encoding);
        assert_eq!((whole.expect("an end"), read.expect("an end")), (reply.clone(), reply));
    } else {
        check_refusal(&ChatReply::decode(&encoding).expect_err("no end"));
        assert_eq!(whole.expect_err("no end").kind(), ErrorKind::Protocol);
        assert_eq!(read.expect_err("no end").kind(), ErrorKind::Protocol);
    }
    Ok(())
}

fn rerank_request(source: &dyn Source) -> Result<()> {
    let query = RerankQuery::decode(source)?;
    let documents: Vec<&str> = query.documents.iter().collect();
    let request = RerankRequest::new(&query.query, &documents).expect("as many as were decoded");
    let request = query.top_n.map_or(request, |n| request.top_n(n));
    assert_eq!(RerankQuery::decode(&encode(&request)).expect("what was encoded"), query);
    Ok(())
}

fn rerank_reply(source: &dyn Source, documents: usize) -> Result<()> {
    let reply = RerankReply::decode(source, documents)?;
    assert_eq!(reply.results().len(), reply.scores().len());
    assert!(reply.is_ranked() || reply.scores().len() == documents);
    let mut seen = vec![false; documents];
    for result in reply.results() {
        assert!(!result.score.is_nan());
        assert!(!std::mem::replace(&mut seen[result.index], true), "a document twice");
    }
    assert_eq!(RerankReply::decode(&encode(&reply), documents).expect("what was encoded"), reply);
    Ok(())
}

fn document(source: &dyn Source) -> Result<()> {
    let reader = DocumentReader::new(source)?;
    let bytes = reader.bytes().to_vec().expect("the part is inside the source");
    assert_eq!(bytes.len(), reader.bytes().len());
    let media_type = reader.media_type();
    let document = Document::new(media_type, &bytes, reader.options()).expect("was decoded");
    let encoding = encode(&document);
    let again = DocumentReader::new(&encoding).expect("what was encoded");
    assert_eq!((again.media_type(), again.options()), (media_type, reader.options()));
    let mut read = Vec::new();
    std::io::copy(&mut PayloadReader::new(again.bytes()), &mut read).expect("a source");
    assert_eq!(read, bytes);
    Ok(())
}

fn page(source: &dyn Source) -> Result<()> {
    let page = Page::decode(source)?;
    assert!(page.number > 0 && page.total.is_none_or(|total| page.number <= total));
    assert_eq!(Page::decode(&encode(&page)).expect("what was encoded"), page);
    Ok(())
}

/// Cuts the input into pieces of this length: their text must be that of all bytes.
fn utf8_decoder(data: &[u8], len: usize) {
    let (mut decoder, mut text) = (Utf8Decoder::new(), String::new());
    for piece in data.chunks(len + 1) {
        text += decoder.push(piece);
    }
    text += decoder.finish();
    assert_eq!(text, String::from_utf8_lossy(data));
}
