//! Tests of the roles' payloads: what vectors do not show.

use proptest::prelude::*;

use super::super::tests::{Counted, Rewritten, assert_invalid, encoded};
use super::*;
use crate::error::{ErrorKind, Result};
use crate::payload::{Payload, Source, SourceRange, TextBatch};

fn end() -> ChatEnd {
    ChatEnd::new(FinishReason::Stop, 7, 2)
}

/// The chunks of a stream, as a host receives them.
fn chunks(chunks: &[ChatChunk<'_>]) -> Vec<Result<Vec<u8>>> {
    chunks.iter().map(|chunk| Ok(encoded(chunk))).collect()
}

#[test]
fn the_stream_of_a_chat_is_read_up_to_its_end() {
    let all =
        chunks(&[ChatChunk::delta("slip "), ChatChunk::delta("ring"), ChatChunk::last(end())]);
    let texts: Vec<_> = ChatStream::new(all.into_iter()).map(|chunk| chunk.unwrap().text).collect();
    assert_eq!(texts, ["slip ", "ring", ""]);
    let all = chunks(&[
        ChatChunk::delta("slip "),
        ChatChunk { end: Some(end()), ..ChatChunk::delta("ring") },
    ]);
    let reply = ChatStream::new(all.into_iter()).collect_reply().unwrap();
    assert_eq!(reply, ChatReply::new("slip ring", end()));
}

#[test]
fn the_stream_of_a_chat_that_is_cut_or_goes_on_is_an_error_of_the_worker() {
    let cases = [
        (vec![], "without its last chunk"),
        (vec![ChatChunk::delta("ring")], "without its last chunk"),
        (vec![ChatChunk::last(end()), ChatChunk::delta("ring")], "goes on"),
        (vec![ChatChunk::last(end()), ChatChunk::last(end())], "goes on"),
    ];
    for (all, words) in cases {
        let mut stream = ChatStream::new(chunks(&all).into_iter());
        let error = stream.find_map(Result::err).unwrap();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains(words), "{error}");
        assert!(stream.next().is_none(), "nothing after an error");
        let error = ChatStream::new(chunks(&all).into_iter()).collect_reply().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");

        let mut collector = ChatCollector::new();
        let pushed = all.iter().try_for_each(|chunk| collector.push(&encoded(chunk)).map(|_| ()));
        let error = pushed.and_then(|()| collector.finish().map(|_| ())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn an_error_of_the_stream_is_passed_on_and_ends_it() {
    let cancelled = || Err(crate::Error::new(ErrorKind::Cancelled, "cancelled"));
    let mut all = chunks(&[ChatChunk::delta("a"), ChatChunk::delta("b")]);
    all.insert(1, cancelled());
    let mut stream = ChatStream::new(all.into_iter());
    assert_eq!(stream.next().unwrap().unwrap(), ChatChunk::delta("a"));
    assert_eq!(stream.next().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(stream.next().is_none());
    let after_the_last = chunks(&[ChatChunk::last(end())]).into_iter().chain([cancelled()]);
    let error = ChatStream::new(after_the_last).collect_reply().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let mut stream = ChatStream::new([Ok(b"no chunk".to_vec())].into_iter());
    assert_invalid(stream.next().unwrap(), "a chunk of a chat");
    assert!(stream.next().is_none());
}

#[test]
fn errors_name_the_payload_and_the_field() {
    let mut chat = ChatRequest::new([ChatMessage::user("x")]);
    let bytes = [encoded(&chat), vec![16, 0, 0, 0, 1, 0, 0, 0, 9]].concat();
    let words = "a chat request: `max_tokens` has 1 bytes, not 4";
    assert_invalid(ChatRequest::decode(&bytes), words);
    let bytes = [encoded(&chat), vec![21, 0, 0, 0, 2, 0, 0, 0, b'x', 0xff]].concat();
    assert_invalid(ChatRequest::decode(&bytes), "`stop` is not UTF-8 from byte 1 on");
    let bytes = [encoded(&chat), vec![2, 0, 0, 0, 9, 0, 0, 0, b'x']].concat();
    assert_invalid(ChatRequest::decode(&bytes), "field 2 of a chat request has 9 bytes, but 1 are");
    chat.top_p = Some(f32::NAN);
    assert_invalid(chat.encode(&mut vec![0; chat.encoded_len()]), "`top_p` is NaN");
    let nothing = ChatRequest::new([]);
    assert_invalid(nothing.encode(&mut []), "a chat request without messages");
    assert_invalid(Page::new(0, "").encode(&mut []), "number 0");
}

#[test]
fn a_slot_of_the_wrong_length_is_refused() {
    fn check(payload: &dyn Payload) {
        let len = payload.encoded_len();
        for wrong in (0..len).chain([len + 1, len + 9]) {
            let words = format!("payload of {len} bytes does not fit a slot of {wrong}");
            assert_invalid(payload.encode(&mut vec![0; wrong]), &words);
        }
    }
    check(&ChatRequest::new([ChatMessage::tool("id", "result")]));
    check(&ChatReply::new("text", end()));
    check(&ChatChunk::delta("text"));
    check(&RerankRequest::new("query", &["a", "b"]).unwrap().top_n(1));
    check(&RerankReply::new(vec![1.0, 2.0], Some(2)).unwrap());
    check(&Document::new("text/plain", b"text", &DocumentOptions::new()).unwrap());
    check(&Page::new(1, "text").of_total(1));
}

#[test]
fn a_document_is_sent_and_read_from_where_it_lies() {
    let content = [7; 5000];
    let document = Document::new("image/png", &content, &DocumentOptions::new()).unwrap();
    let [_, _, bytes] = document.as_parts().unwrap();
    assert_eq!(bytes.as_ptr(), content.as_ptr());

    let source = Counted::new(encoded(&document));
    let reader = DocumentReader::new(&source).unwrap();
    let mut fetched = vec![0; 5000];
    reader.bytes().read_at(0, &mut fetched).unwrap();
    assert_eq!(fetched, content);
    source.assert_each_byte_was_fetched_once();
}

#[test]
fn options_say_which_pages_are_wanted() {
    let mut options = DocumentOptions::new();
    assert!(options.has_page(1) && options.has_page(u32::MAX));
    options.pages = vec![2..=3, 7..=7];
    let wanted: Vec<u32> = (1..9).filter(|number| options.has_page(*number)).collect();
    assert_eq!(wanted, [2, 3, 7]);
    for (first, last) in [(0, 1), (3, 2)] {
        options.pages = vec![first..=last];
        assert_invalid(Document::new("", b"", &options), &format!("from {first} to {last}"));
    }
}

#[test]
fn the_best_documents_are_ranked_and_of_equal_ones_the_first() {
    let ranked = |scores: &[f32], n| {
        let reply = RerankReply::new(scores.to_vec(), Some(n)).unwrap();
        assert_eq!(RerankReply::decode(&encoded(&reply), scores.len()).unwrap(), reply);
        reply.results().map(|result| result.index).collect::<Vec<_>>()
    };
    assert_eq!(ranked(&[1.0, 3.0, 2.0], 2), [1, 2]);
    assert_eq!(ranked(&[1.0, 1.0, 2.0], 9), [2, 0, 1]);
    assert_eq!(ranked(&[0.0, -0.0, 0.0], 3), [0, 1, 2]);
    assert_eq!(ranked(&[f32::NEG_INFINITY, f32::INFINITY, 0.0], 3), [1, 2, 0]);
    assert_eq!(ranked(&[1.0, 2.0], 0), [0_usize; 0]);
    for n in [None, Some(1)] {
        assert_invalid(
            RerankReply::new(vec![0.0, f32::NAN], n),
            "score 1 of a rerank reply is NaN",
        );
    }
}

#[test]
fn each_byte_of_the_source_is_fetched_once() {
    let mut chat = ChatRequest::new([ChatMessage::system("a"), ChatMessage::user("b")]);
    (chat.seed, chat.stop) = (Some(1), vec!["x".to_owned()]);
    let source = Counted::new(encoded(&chat));
    ChatRequest::decode(&source).unwrap();
    source.assert_each_byte_was_fetched_once();
    let source = Counted::new(encoded(&RerankRequest::new("q", &["a", "b"]).unwrap().top_n(1)));
    RerankQuery::decode(&source).unwrap();
    source.assert_each_byte_was_fetched_once();
    let source = Counted::new(encoded(&RerankReply::new(vec![1.0, 2.0], Some(2)).unwrap()));
    RerankReply::decode(&source, 2).unwrap();
    source.assert_each_byte_was_fetched_once();
    let source = Counted::new(encoded(&Page::new(1, "text").of_total(1)));
    Page::decode(&source).unwrap();
    source.assert_each_byte_was_fetched_once();
}

#[test]
fn no_payload_grows_by_more_than_its_decoder_promises() {
    // A vector that grows holds its old elements and twice as many new ones.
    assert!(3 * size_of::<ChatMessage>() < 40 * 9, "{}", size_of::<ChatMessage>());
    assert!(3 * size_of::<String>() < 40 * 8);
}

fn decoded_of_bytes(text: &[u8], cuts: &[usize]) -> String {
    let (mut decoder, mut out, mut from) = (Utf8Decoder::new(), String::new(), 0);
    for cut in cuts {
        let to = (from + cut).min(text.len());
        out += decoder.push(&text[from..to]);
        from = to;
    }
    out += decoder.push(&text[from..]);
    out += decoder.finish();
    assert_eq!(decoder.push(b"x"), "x", "nothing is left of it");
    out
}

#[test]
fn characters_that_tokens_cut_come_out_whole() {
    let text = "grüße 日本 🦀 e\u{301}";
    assert_eq!(decoded_of_bytes(text.as_bytes(), &[1; 40]), text);
    let mut decoder = Utf8Decoder::new();
    assert_eq!(decoder.push(b"\xf0\x9f\xa6"), "");
    assert_eq!(decoder.push(b""), "");
    assert_eq!(decoder.push(b"\x80!"), "🦀!");
    assert_eq!(decoder.push(b"\xe2\x82A\xff"), "\u{fffd}A\u{fffd}");
    assert_eq!(decoder.push(b"\xf0"), "");
    assert_eq!(decoder.finish(), "\u{fffd}");
}

/// Decodes a source as everything that is here; returns whether something accepted it.
fn decode_all<S: Source>(source: &S) -> bool {
    let results = [
        ChatRequest::decode(source).map(|chat| {
            assert_eq!(ChatRequest::decode(&encoded(&chat)).unwrap(), chat);
        }),
        ChatChunk::decode(source).map(|chunk| {
            assert_eq!(ChatChunk::decode(&encoded(&chunk)).unwrap(), chunk);
        }),
        ChatReply::decode(source).map(|reply| {
            assert_eq!(ChatReply::decode(&encoded(&reply)).unwrap(), reply);
        }),
        RerankQuery::decode(source).map(|query| {
            let documents: Vec<&str> = query.documents.iter().collect();
            let request = RerankRequest::new(&query.query, &documents).unwrap();
            let request = query.top_n.map_or(request, |n| request.top_n(n));
            assert_eq!(RerankQuery::decode(&encoded(&request)).unwrap(), query);
        }),
        RerankReply::decode(source, 3).map(|reply| {
            assert!(reply.results().all(|result| result.index < 3 && !result.score.is_nan()));
            assert_eq!(RerankReply::decode(&encoded(&reply), 3).unwrap(), reply);
        }),
        DocumentReader::new(source).map(|reader| {
            let bytes = reader.bytes().to_vec().unwrap();
            let document = Document::new(reader.media_type(), &bytes, reader.options()).unwrap();
            let encoding = encoded(&document);
            let again = DocumentReader::new(&encoding).unwrap();
            assert_eq!(again.options(), reader.options());
            assert_eq!(again.bytes().to_vec().unwrap(), bytes);
        }),
        Page::decode(source).map(|page| {
            assert_eq!(Page::decode(&encoded(&page)).unwrap(), page);
        }),
    ];
    results
        .into_iter()
        .map(|result| result.map_err(|error| assert_eq!(error.kind(), ErrorKind::InvalidPayload)))
        .fold(false, |accepted, result| accepted | result.is_ok())
}

fn option_text() -> impl Strategy<Value = Option<String>> {
    prop::option::of(any::<String>())
}

fn finite() -> impl Strategy<Value = Option<f32>> {
    prop::option::of(-1e30_f32..1e30)
}

prop_compose! {
    fn message()(
        role in prop::sample::select(vec![
            ChatRole::System, ChatRole::User, ChatRole::Assistant, ChatRole::Tool,
        ]),
        content in any::<String>(),
        (name, tool_call_id, tool_calls) in (option_text(), option_text(), option_text()),
    ) -> ChatMessage {
        ChatMessage { role, content, name, tool_call_id, tool_calls }
    }
}

prop_compose! {
    fn chat()(
        messages in prop::collection::vec(message(), 1..5),
        (max_tokens, top_k, seed) in any::<(Option<u32>, Option<u32>, Option<u64>)>(),
        (temperature, top_p) in (finite(), finite()),
        (frequency_penalty, presence_penalty) in (finite(), finite()),
        stop in prop::collection::vec(any::<String>(), 0..3),
        tools in option_text(),
    ) -> ChatRequest {
        ChatRequest {
            messages, max_tokens, temperature, top_p, top_k, seed, stop,
            frequency_penalty, presence_penalty, tools,
        }
    }
}

prop_compose! {
    fn chunk()(
        text in any::<String>(),
        end in prop::option::of((1..=4_u8, any::<u32>(), any::<u32>(), option_text())),
    ) -> ChatChunk<'static> {
        let end = end.map(|(code, prompt_tokens, completion_tokens, tool_calls)| ChatEnd {
            finish_reason: FinishReason::from_code(code).unwrap(),
            prompt_tokens, completion_tokens, tool_calls,
        });
        ChatChunk { text: text.into(), end }
    }
}

prop_compose! {
    fn options()(
        pages in prop::collection::vec((1..9_u32, 0..9_u32), 0..3),
        dpi in any::<Option<u32>>(),
        (language, prompt) in (option_text(), option_text()),
    ) -> DocumentOptions {
        let pages = pages.into_iter().map(|(first, more)| first..=first + more).collect();
        DocumentOptions { pages, dpi, language, prompt }
    }
}

/// Encodings of one payload of each type.
fn encodings() -> impl Strategy<Value = Vec<u8>> {
    let texts = prop::collection::vec(any::<String>(), 0..4);
    let scores = prop::collection::vec(-1e9_f32..1e9, 3);
    prop_oneof![
        chat().prop_map(|chat| encoded(&chat)),
        chunk().prop_map(|chunk| encoded(&chunk)),
        (any::<String>(), texts, any::<Option<u32>>()).prop_map(|(query, texts, top_n)| {
            let request = RerankRequest::new(&query, &texts).unwrap();
            encoded(&top_n.map_or(request, |n| request.top_n(n)))
        }),
        (scores, prop::option::of(0..4_u32))
            .prop_map(|(scores, n)| encoded(&RerankReply::new(scores, n).unwrap())),
        (any::<String>(), options(), any::<Vec<u8>>()).prop_map(|(media_type, options, bytes)| {
            encoded(&Document::new(&media_type, &bytes, &options).unwrap())
        }),
        (1..9_u32, any::<String>())
            .prop_map(|(n, text)| encoded(&Page::new(n, text).of_total(8 + n))),
    ]
}

proptest! {
    #[test]
    fn any_chat_comes_out_as_it_went_in(chat in chat(), chunk in chunk()) {
        prop_assert_eq!(ChatRequest::decode(&encoded(&chat))?, chat);
        prop_assert_eq!(ChatChunk::decode(&encoded(&chunk))?, chunk);
    }

    #[test]
    fn any_document_comes_out_as_it_went_in(
        media_type in any::<String>(),
        options in options(),
        bytes in any::<Vec<u8>>(),
    ) {
        let encoding = encoded(&Document::new(&media_type, &bytes, &options)?);
        let reader = DocumentReader::new(crate::PeerBytes::of(&encoding))?;
        prop_assert_eq!(reader.media_type(), media_type);
        prop_assert_eq!(reader.options(), &options);
        prop_assert_eq!(reader.bytes().to_vec()?, bytes);
    }

    #[test]
    fn every_encoding_is_accepted_and_a_cut_one_never_panics(bytes in encodings()) {
        prop_assert!(decode_all(&bytes));
        for len in 0..bytes.len() {
            decode_all(&SourceRange::new(&bytes, 0..len)?);
        }
    }

    #[test]
    fn mutated_encodings_never_panic_and_their_errors_are_typed(
        mut bytes in encodings(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let before = bytes.clone();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        decode_all(&bytes);
        decode_all(&Rewritten::new(vec![before.clone(), bytes.clone()]));
        decode_all(&Rewritten::new(vec![bytes, before]));
    }

    #[test]
    fn any_bytes_never_panic_and_their_errors_are_typed(
        fields in prop::collection::vec((0..26_u32, prop::collection::vec(any::<u8>(), 0..12)), 0..6),
        rest in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut bytes = Vec::new();
        for (tag, value) in fields {
            bytes.extend(fields::header(tag, value.len())?);
            bytes.extend(value);
        }
        bytes.extend(rest);
        decode_all(&bytes);
    }

    #[test]
    fn bytes_cut_anywhere_make_the_text_of_all_bytes(
        text in prop_oneof![any::<String>().prop_map(String::into_bytes), any::<Vec<u8>>()],
        cuts in prop::collection::vec(0..5_usize, 0..20),
    ) {
        prop_assert_eq!(decoded_of_bytes(&text, &cuts), String::from_utf8_lossy(&text));
    }
}

#[test]
fn a_batch_of_documents_is_laid_out_as_a_batch_of_texts() {
    let texts = ["a", "b"];
    let encoding = encoded(&RerankRequest::new("", &texts).unwrap());
    assert!(encoding.ends_with(&encoded(&TextBatch::new(&texts).unwrap())));
}
