package routing

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
)

// Keywords holds the keyword rules in a form made for matching. It is immutable.
type Keywords struct{ rules []keywordRule }

type keywordRule struct {
	config.KeywordRule
	words []string // folded unless the rule is case-sensitive
}

// NewKeywords prepares rules that config has validated.
func NewKeywords(rules []config.KeywordRule) *Keywords {
	k := &Keywords{}
	for _, rule := range rules {
		prepared := keywordRule{KeywordRule: rule}
		for _, word := range rule.Keywords {
			if !rule.CaseSensitive {
				word = fold(word)
			}
			prepared.words = append(prepared.words, word)
		}
		k.rules = append(k.rules, prepared)
	}
	return k
}

// AddMatches adds every rule that text satisfies to signals.
func (k *Keywords) AddMatches(text string, signals Signals) {
	folded := fold(text)
	for _, rule := range k.rules {
		haystack := folded
		if rule.CaseSensitive {
			haystack = text
		}
		if rule.matches(haystack) {
			signals.Add(config.ConditionKeyword, rule.Name)
		}
	}
}

func (r keywordRule) matches(text string) bool {
	for _, word := range r.words {
		found := containsWord(text, word)
		switch r.Operator {
		case "AND":
			if !found {
				return false
			}
		case "OR":
			if found {
				return true
			}
		case "NOR":
			if found {
				return false
			}
		}
	}
	return r.Operator != "OR"
}

// containsWord finds word in text as a literal that is not part of a longer word: `secret` is not in `secretary`.
//
// A boundary is wanted only at an edge of the keyword that is itself a word character, so `c++` and `*` need none
// beyond their punctuation, and 紧急 needs none at all: its script writes no blanks between words.
func containsWord(text, word string) bool {
	first, _ := utf8.DecodeRuneInString(word)
	last, _ := utf8.DecodeLastRuneInString(word)
	for from := 0; ; {
		at := strings.Index(text[from:], word)
		if at < 0 {
			return false
		}
		start := from + at
		end := start + len(word)
		before, _ := utf8.DecodeLastRuneInString(text[:start])
		after, _ := utf8.DecodeRuneInString(text[end:])
		if !(isWordRune(first) && isWordRune(before)) && !(isWordRune(last) && isWordRune(after)) {
			return true
		}
		_, size := utf8.DecodeRuneInString(text[start:])
		from = start + size
	}
}

// unspaced are the scripts that are written without blanks between words, or attach particles to foreign words
// (Hangul): a neighbour in one of them does not make a Latin word longer, as in 这个urgent问题.
var unspaced = []*unicode.RangeTable{
	unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Bopomofo,
	unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar, unicode.Tibetan,
}

// isWordRune says whether r joins its neighbours to one word. The empty edge of a text (RuneError) does not.
func isWordRune(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	return (unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r)) && !unicode.In(r, unspaced...)
}

// fold maps every rune to one representative of its case variants (Unicode simple folding), so that equal means
// equal without regard to case.
func fold(text string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && r != 'k' && r != 'K' && r != 's' && r != 'S' { // these two have variants beyond ASCII
			return unicode.ToLower(r)
		}
		smallest := r
		for variant := unicode.SimpleFold(r); variant != r; variant = unicode.SimpleFold(variant) {
			smallest = min(smallest, variant)
		}
		return smallest
	}, text)
}
