//! Cuts a text into words, and writes them in one spelling.
//!
//! Texts that Unicode calls equal without regard to case and compatibility give
//! the same words: "é" in one character or in two, "ß" and "SS", "ﬁ" and "fi",
//! full-width and half-width forms. Characters that are never seen, such as soft
//! hyphens, joiners and variation selectors, are left out.

use std::sync::OnceLock;

use caseless::Caseless;
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// Writes the words of `text` to `folded`, with one space before, between and after
/// them. A text of punctuation alone gives the punctuation as its words. A text
/// without visible characters leaves `folded` empty.
pub(super) fn fold(text: &str, folded: &mut String) {
    folded.clear();
    cut(text, is_word_char, folded);
    if folded.is_empty() {
        cut(text, |c| !is_blank(c), folded);
    }
}

/// Appends what `belongs` to words.
fn cut(text: &str, belongs: impl Fn(char) -> bool, folded: &mut String) {
    let mut push = |c| {
        if belongs(c) {
            if folded.is_empty() {
                folded.push(' ');
            }
            folded.push(c);
        } else if !folded.is_empty() && !folded.ends_with(' ') {
            folded.push(' ');
        }
    };
    // No character composes with a space, so what is between two can be respelled alone,
    // and most of it has no need.
    for part in text.split(' ') {
        if part.is_ascii() {
            part.chars().for_each(|c| push(c.to_ascii_lowercase()));
        } else {
            respell(part, &mut push);
        }
        push(' ');
    }
}

/// Passes on the characters of a text that stands for all that differ from it in case and
/// compatibility only.
fn respell(text: &str, mut push: impl FnMut(char)) {
    let alone = || text.chars().map(|c| Known::of(c).and_then(|known| known.respelled));
    if alone().all(|respelled| respelled.is_some()) {
        alone().flatten().for_each(push);
        return;
    }
    let seen = text.chars().filter(|&c| !is_ignorable(c));
    // Composed at the end, so that an accent adds no length to a word.
    seen.nfkd().default_case_fold().nfc().for_each(&mut push);
}

/// The properties of each character of the basic plane, 256 to a page. Finding them takes longer
/// than hashing the character, so a page is filled when a text needs it.
static KNOWN: [OnceLock<Vec<Known>>; 256] = [const { OnceLock::new() }; 256];

struct Known {
    /// The one character that the character becomes, if neither composes with another.
    respelled: Option<char>,
    is_word_char: bool,
}

impl Known {
    fn of(c: char) -> Option<&'static Self> {
        let code = u32::from(c) as usize;
        let page = KNOWN.get(code >> 8)?.get_or_init(|| Self::page(code & !0xff));
        page.get(code & 0xff)
    }

    fn page(start: usize) -> Vec<Self> {
        // No text has a surrogate; it keeps the place of its number.
        let char = |code| u32::try_from(code).ok().and_then(char::from_u32).unwrap_or_default();
        (start..start + 256).map(char).map(Self::find).collect()
    }

    fn find(c: char) -> Self {
        let alone = |c| {
            is_nfc_quick(std::iter::once(c)) == IsNormalized::Yes
                && canonical_combining_class(c) == 0
        };
        let mut respelled = std::iter::once(c).nfkd().default_case_fold().nfc();
        let respelled = match (respelled.next(), respelled.next()) {
            (Some(one), None) if alone(c) && alone(one) && !is_ignorable(c) => Some(one),
            _ => None,
        };
        Self { respelled, is_word_char: find_word_char(c) }
    }
}

/// Letters, marks and digits of all scripts, and pictures; punctuation, spaces and the
/// signs of mathematics and money are what divides words.
fn is_word_char(c: char) -> bool {
    match Known::of(c) {
        Some(known) => known.is_word_char,
        None => find_word_char(c),
    }
}

fn find_word_char(c: char) -> bool {
    if is_blank(c) {
        return false;
    }
    match c.general_category() {
        // The five skin tones of emoji; the others are accents that stand alone.
        GeneralCategory::ModifierSymbol => matches!(c, '\u{1f3fb}'..='\u{1f3ff}'),
        GeneralCategory::MathSymbol | GeneralCategory::CurrencySymbol => false,
        _ => c.general_category_group() != GeneralCategoryGroup::Punctuation,
    }
}

/// Characters that divide words and leave no ink.
fn is_blank(c: char) -> bool {
    // The zero-width space is made for dividing words; the empty Braille cell looks like
    // a space and is none for Unicode.
    c.is_whitespace() || c.is_control() || matches!(c, '\u{200b}' | '\u{2800}')
}

/// Characters that leave no ink and do not divide words: those of Unicode's property
/// `Default_Ignorable_Code_Point`, and the other format characters that do not show.
fn is_ignorable(c: char) -> bool {
    match c {
        '\u{200b}' => false,
        // The combining grapheme joiner, Hangul fillers, inherent Khmer vowels, Mongolian
        // and other variation selectors; and what is reserved for more of the kind.
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' => true,
        '\u{180b}'..='\u{180f}' | '\u{2065}' | '\u{3164}' | '\u{ffa0}' => true,
        '\u{fe00}'..='\u{fe0f}' | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}' => true,
        // Format characters that show: signs which stand before or around a number.
        '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' => false,
        '\u{8e2}' | '\u{110bd}' | '\u{110cd}' => false,
        _ => c.general_category() == GeneralCategory::Format,
    }
}

#[cfg(test)]
mod tests {
    use regex_syntax::hir::{Class, HirKind};

    use super::*;

    fn folded(text: &str) -> String {
        let mut folded = String::new();
        fold(text, &mut folded);
        folded
    }

    /// All characters of a class of Unicode.
    fn class(name: &str) -> Vec<char> {
        let hir = regex_syntax::parse(name).unwrap();
        let HirKind::Class(Class::Unicode(class)) = hir.kind() else { panic!("{name}: no class") };
        class.ranges().iter().flat_map(|range| range.start()..=range.end()).collect()
    }

    #[test]
    fn invisible_characters_are_no_words_and_all_others_are() {
        // Format characters of a number's sign show, whatever else is said of them.
        let invisible =
            class(r"[\p{Default_Ignorable_Code_Point}\p{White_Space}\p{Cc}\p{Cf}\u2800--\p{PCM}]");
        assert!(invisible.len() > 4000);
        for &c in &invisible {
            assert_eq!(folded(&c.to_string()), "", "{}", c.escape_unicode());
        }
        let visible = class(r"[\p{L}\p{M}\p{N}\p{P}\p{S}\p{PCM}]");
        assert!(visible.len() > 140_000);
        for c in visible.into_iter().filter(|c| invisible.binary_search(c).is_err()) {
            assert_ne!(folded(&c.to_string()), "", "{}", c.escape_unicode());
        }
    }

    /// Unicode's compatibility caseless matching (definition D146), one step after another.
    fn slowly(text: &str) -> String {
        let once: String = text.chars().nfd().default_case_fold().nfkd().collect();
        once.chars().default_case_fold().nfkd().collect()
    }

    #[test]
    fn the_short_ways_agree_with_the_definition_for_every_character() {
        // Private characters and ideographs are never spelled differently.
        let all = r"[\p{Assigned}--\p{DI}--\p{Cf}--\p{Co}--\p{Unified_Ideograph}]";
        for c in class(all) {
            // Alone, and between neighbours that it could join.
            for text in [c.to_string(), format!("e{c}\u{301}")] {
                let mut short = String::new();
                respell(&text, |c| short.push(c));
                assert!(
                    short.chars().nfkd().eq(slowly(&text).chars()),
                    "{}",
                    text.escape_unicode()
                );
                assert!(short.chars().eq(short.chars().nfc()), "{}", text.escape_unicode());
            }
        }
    }

    #[test]
    fn one_text_in_several_spellings_gives_the_same_words() {
        for (one, other) in [
            ("na\u{ef}ve r\u{e9}sum\u{e9}", "nai\u{308}ve re\u{301}sume\u{301}"),
            ("Straße STRASSE", "STRASSE straße"),
            ("the oﬃce ﬁle", "the office file"),
            ("Ｆｕｌｌ　ｗｉｄｔｈ！", "full width"),
            ("ｶﾀｶﾅ ｶﾞ", "カタカナ ガ"),
            ("한글", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}"),
            ("ΟΔΟΣ", "οδος"),
            ("İstanbul", "i\u{307}stanbul"),
            ("co\u{ad}operate", "cooperate"),
            ("\u{feff}word\u{2060}s\u{200e}", "words"),
            ("❤\u{fe0f}", "❤"),
            ("a\u{323}\u{307}", "a\u{307}\u{323}"),
            ("10\u{a0}000", "10 000"),
        ] {
            assert_eq!(folded(one), folded(other), "{one:?} {other:?}");
            assert_ne!(folded(one), "");
        }
    }

    #[test]
    fn punctuation_of_any_script_divides_words() {
        for text in [
            "one two",
            "one, two",
            "one—two",
            "«one» ‘two’",
            "one、two。",
            "one،two؟",
            "one।two॥",
            "one\u{200b}two",
            "one€two",
            "one×two",
            "one・two",
            "one\u{2028}two",
            "one\u{2800}two",
        ] {
            assert_eq!(folded(text), " one two ", "{text:?}");
        }
    }

    #[test]
    fn punctuation_alone_is_its_own_words() {
        assert_eq!(folded("!"), " ! ");
        assert_eq!(folded(" … ?!\u{200b}"), " ... ?! ");
        assert_eq!(folded("(a)"), " a ");
    }

    #[test]
    fn emoji_of_several_characters_stay_one_word() {
        assert_eq!(folded("👩\u{200d}👩\u{200d}👧 👋🏽"), " 👩👩👧 👋🏽 ");
    }
}
