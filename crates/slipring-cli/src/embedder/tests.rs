#![allow(
    clippy::as_conversions,
    clippy::print_stderr,
    reason = "counts become ratios; the AUC is worth seeing with --nocapture"
)]

use super::*;

pub(super) fn embed(text: &str) -> Vec<f32> {
    let mut out = vec![0.0; 384];
    Embedder::new(384).embed_into(text, &mut out);
    out
}

pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn a_text_without_visible_characters_is_the_zero_vector() {
    let invisible = "\u{200b}\u{200d}\u{ad}\u{feff}\u{202e}\u{2060}\u{fe0f}\u{3164}\u{e0020}";
    for text in ["", " ", "\t \u{3000}\u{a0}", "\u{85}\0\u{1b}\u{2028}", "\u{2800}", invisible] {
        assert!(embed(text).iter().all(|&x| x.to_bits() == 0), "{text:?}");
    }
}

#[test]
fn every_other_text_has_unit_length() {
    for text in ["a", "!", "…?!", "the cat sat", "Привет, мир", "猫が好き", "👩‍👩‍👧", "\u{301}"]
    {
        let norm = cosine_self(&embed(text));
        assert!((norm - 1.0).abs() < 1e-5, "{text:?} has squared norm {norm}");
    }
}

fn cosine_self(v: &[f32]) -> f64 {
    v.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

#[test]
fn case_and_punctuation_do_not_matter() {
    assert_eq!(embed("The CAT sat."), embed("the cat — sat"));
    assert_eq!(embed("ÉTÉ, ΟΔΟΣ"), embed("été οδος"));
}

#[test]
fn the_spelling_of_accents_and_widths_does_not_matter() {
    let composed = embed("na\u{ef}ve r\u{e9}sum\u{e9}");
    assert_eq!(composed, embed("nai\u{308}ve re\u{301}sume\u{301}"));
    assert_eq!(embed("ＳＴＲＡＳＳＥ"), embed("straße"));
    assert_eq!(embed("co\u{ad}operate"), embed("cooperate"));
}

#[test]
fn a_word_that_all_texts_have_says_less_than_one_that_few_have() {
    let query = embed("a small dog");
    let near = |text| cosine(&query, &embed(text));
    assert!(near("water dog: a dog accustomed to water") > 2.0 * near("cannikin: a small can"));
    assert!(near("dog") > 1.5 * near("a small"));
}

#[test]
fn the_order_of_words_matters_a_little() {
    let (ab, ba) = (embed("dog bites man"), embed("man bites dog"));
    assert_ne!(ab, ba);
    assert!(cosine(&ab, &ba) > 0.8);
}

#[test]
fn a_repeated_word_counts_sublinearly() {
    let text = |n: usize| format!("{}bird", "tree ".repeat(n));
    let near = |n| cosine(&embed("tree"), &embed(&text(n)));
    assert!(near(1) < near(4));
    assert!(near(1000) < 0.999, "the bird must not drown: {}", near(1000));
}

#[test]
fn what_was_embedded_before_leaves_no_trace() {
    let mut embedder = Embedder::new(384);
    let mut out = vec![0.0; 384];
    embedder.embed_into(&"a long earlier text ".repeat(5000), &mut out);
    embedder.embed_into("kindness: a kind act", &mut out);
    assert_eq!(out, embed("kindness: a kind act"));
}

#[test]
fn scratch_space_is_given_back_after_a_huge_text() {
    let mut embedder = Embedder::new(8);
    let mut out = vec![0.0; 8];
    embedder.embed_into(&"x".repeat(1 << 20), &mut out);
    embedder.embed_into(&"x ".repeat(1 << 20), &mut out);
    assert!(embedder.folded.capacity() <= 2 * KEEP);
    assert!(embedder.words.capacity() <= 2 * KEEP);
    assert!(embedder.pairs.capacity() <= 2 * KEEP);
}

#[test]
fn any_dim_from_one_up_works() {
    for dim in [1, 2, 3, 1000, 65_536] {
        let mut out = vec![f32::NAN; dim];
        Embedder::new(dim).embed_into("some text", &mut out);
        assert!(out.iter().all(|x| x.is_finite()), "dim {dim}");
    }
}

#[test]
fn own_logarithm_agrees_with_the_library_s() {
    for n in (1..5000).chain([1 << 20, (1 << 40) - 1, usize::MAX]) {
        let expected = (n as f64).ln();
        assert!((ln(n) - expected).abs() <= 1e-14 * expected.max(1.0), "ln {n}");
    }
}

/// A change of these bits is a change of every vector that users have stored:
/// it needs an entry in the changelog.
#[test]
fn the_vectors_are_those_of_earlier_releases() {
    let mut all = Vec::new();
    for text in ["a", "kindness: a kind act", "Ça va? 猫が好き", "…!", &"ab ".repeat(300)] {
        all.extend(embed(text).iter().flat_map(|x| x.to_le_bytes()));
    }
    assert_eq!(fnv1a(0xcbf2_9ce4_8422_2325, &all), 12_863_458_052_351_994_667);
}

/// The pairs were written by hand; see data/README.md beside them.
#[test]
fn paraphrases_are_nearer_to_their_gloss_than_other_sentences() {
    let pairs: Vec<(Vec<f32>, Vec<f32>)> = include_str!("../../tests/data/paraphrases.tsv")
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(gloss, paraphrase)| (embed(gloss), embed(paraphrase)))
        .collect();
    assert!(pairs.len() >= 200);

    let mut matched = Vec::new();
    let mut shuffled = Vec::new();
    for (i, (gloss, _)) in pairs.iter().enumerate() {
        for (j, (_, paraphrase)) in pairs.iter().enumerate() {
            let list = if i == j { &mut matched } else { &mut shuffled };
            list.push(cosine(gloss, paraphrase));
        }
    }
    shuffled.sort_by(f64::total_cmp);
    // AUC: the chance that a true pair is nearer than a shuffled one.
    let wins: f64 = matched
        .iter()
        .map(|&score| {
            let below = shuffled.partition_point(|&other| other < score);
            let not_above = shuffled.partition_point(|&other| other <= score);
            (below + not_above) as f64 / 2.0
        })
        .sum();
    let auc = wins / (matched.len() * shuffled.len()) as f64;
    eprintln!("AUC {auc:.4} over {} pairs", pairs.len());
    assert!(auc >= 0.9, "AUC is {auc:.4}");
}

#[test]
fn the_vectors_of_the_glosses_have_the_bits_that_the_program_is_held_to() {
    let mut embedder = Embedder::new(384);
    let mut row = vec![0.0; 384];
    let mut digest = 0xcbf2_9ce4_8422_2325;
    for text in include_str!("../../tests/data/glosses.txt").lines() {
        embedder.embed_into(text, &mut row);
        digest = row.iter().fold(digest, |digest, x| fnv1a(digest, &x.to_le_bytes()));
    }
    let told = include_str!("../../tests/data/glosses.fnv1a").trim_end();
    assert_eq!(format!("{digest:016x}"), told);
}
