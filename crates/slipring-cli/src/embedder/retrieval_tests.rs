//! Whether a question finds its gloss among all of them, and whether plain hashing does.

use std::collections::BTreeMap;

use super::tests::embed;
use super::{Feature, add, finish, fnv1a, fold, for_each_ngram, normalise, seed};

/// Feature hashing without frequencies: all words have the same weight, and a word that occurs
/// several times counts as 1 + ln of that.
fn embed_plainly(text: &str) -> Vec<f32> {
    let mut folded = String::new();
    fold::fold(text, &mut folded);
    let mut features: BTreeMap<(u64, bool), usize> = BTreeMap::new();
    let mut count = |hash, is_word| *features.entry((hash, is_word)).or_default() += 1;
    let mut previous = None;
    for word in folded.split_whitespace() {
        let hash = fnv1a(seed(Feature::Word), word.as_bytes());
        count(finish(hash), true);
        if let Some(previous) = previous.replace(hash) {
            let state = fnv1a(seed(Feature::WordPair), &u64::to_le_bytes(previous));
            count(finish(fnv1a(state, &hash.to_le_bytes())), false);
        }
        for_each_ngram(format!(" {word} ").as_bytes(), |hash| count(hash, false));
    }
    let mut out = vec![0.0; 384];
    for ((hash, is_word), count) in features {
        let weight = if is_word { 1.0 } else { 0.5 };
        add(hash, weight * (1.0 + (count as f32).ln()), &mut out);
    }
    normalise(&mut out);
    out
}

/// How many questions have their gloss in the first place, and among the first five; and
/// the mean of the places' reciprocals.
#[derive(Debug)]
struct Recall {
    first: usize,
    first_five: usize,
    mean_reciprocal: f64,
}

fn recall(embed: impl Fn(&str) -> Vec<f32>) -> Recall {
    let glosses: Vec<(&str, Vec<f32>)> = include_str!("../../tests/data/glosses.txt")
        .lines()
        .map(|gloss| (gloss, embed(gloss)))
        .collect();
    let questions: Vec<(&str, Vec<f32>)> = include_str!("../../tests/data/queries.tsv")
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(gloss, question)| (gloss, embed(question)))
        .collect();
    assert_eq!((glosses.len(), questions.len()), (5000, 50));

    let mut places = Vec::new();
    for (answer, question) in &questions {
        let near = |gloss: &[f32]| -> f32 { question.iter().zip(gloss).map(|(a, b)| a * b).sum() };
        let (_, right) = glosses.iter().find(|(gloss, _)| gloss == answer).unwrap();
        let right = near(right);
        // The gloss itself is one of them.
        places.push(glosses.iter().filter(|(_, gloss)| near(gloss) >= right).count());
    }
    let within = |n| places.iter().filter(|&&place| place <= n).count();
    let reciprocals: f64 = places.iter().map(|&place| 1.0 / place as f64).sum();
    Recall {
        first: within(1),
        first_five: within(5),
        mean_reciprocal: reciprocals / places.len() as f64,
    }
}

/// The questions were written before anything was measured; see data/README.md.
#[test]
fn questions_find_their_gloss_where_plain_hashing_does_not() {
    let (ours, plain) = (recall(embed), recall(embed_plainly));
    eprintln!("ours {ours:?}, plain {plain:?}");
    assert!(ours.first >= 44, "{ours:?}");
    assert!(ours.first_five >= 48, "{ours:?}");
    assert!(ours.mean_reciprocal >= 0.9, "{ours:?}");
    // The questions are hard enough to tell the two apart.
    assert!(plain.first < 44, "{plain:?}");
    assert!(plain.first_five < 48, "{plain:?}");
    assert!(plain.mean_reciprocal < 0.9, "{plain:?}");
}
