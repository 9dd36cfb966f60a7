package consumer

import (
	"errors"
	"fmt"
	"strings"
)

// checkQueued returns an error if the text is not one statement, or if it would end the
// transaction that it is queued in, or change the session after it.
func checkQueued(sql string) error {
	statements, err := leadingWords(sql)
	switch {
	case err != nil:
		return err
	case len(statements) != 1:
		return fmt.Errorf("a queued text contains %d statements, want one: queue each by itself", len(statements))
	}
	words := statements[0]
	word := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	switch word(0) {
	case "BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE":
		return fmt.Errorf("a queued statement must not be %s: the consumer begins and ends the transaction", word(0))
	case "PREPARE":
		if word(1) == "TRANSACTION" {
			return errors.New("a queued statement must not be PREPARE TRANSACTION: the consumer begins and ends the transaction")
		}
	case "SET":
		if word(1) != "LOCAL" && word(1) != "CONSTRAINTS" {
			return errors.New("a queued SET must be SET LOCAL or SET CONSTRAINTS: others use the connection afterwards")
		}
	}
	return nil
}

// leadingWords returns the first two words of each statement in the text, in upper case.
// Statements that begin differently have fewer.
func leadingWords(sql string) (statements [][]string, err error) {
	var words []string
	begun, leading := false, true
	end := func() {
		if begun {
			statements = append(statements, words)
		}
		words, begun, leading = nil, false, true
	}
	for sql != "" {
		n := 1
		switch c := sql[0]; {
		case c == ';':
			end()
		case isSpace(c):
		case strings.HasPrefix(sql, "--"):
			if n = strings.IndexAny(sql, "\r\n"); n < 0 {
				n = len(sql)
			}
		case strings.HasPrefix(sql, "/*"):
			n = comment(sql)
		case isLetter(c):
			n = word(sql)
			if quote := n; strings.EqualFold(sql[:n], "e") && strings.HasPrefix(sql[quote:], "'") {
				n = quoted(sql[quote:], true)
				if n > 0 {
					n += quote
				}
				begun, leading = true, false
				break
			}
			if leading && len(words) < 2 {
				words = append(words, strings.ToUpper(sql[:n]))
			}
			begun = true
		case c == '\'' || c == '"':
			n = quoted(sql, false)
			begun, leading = true, false
		case c == '$':
			n = dollarQuoted(sql)
			begun, leading = true, false
		default:
			begun, leading = true, false
		}
		if n <= 0 {
			return nil, errors.New("a queued statement ends within a quotation or comment")
		}
		sql = sql[n:]
	}
	end()
	return statements, nil
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func isLetter(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c >= 0x80
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// word returns the length of the word that the text begins with.
func word(sql string) int {
	n := 1
	for n < len(sql) && (isLetter(sql[n]) || isDigit(sql[n]) || sql[n] == '$') {
		n++
	}
	return n
}

// comment returns the length of the comment that the text begins with. Comments are nested. It
// is 0 if the comment does not end, as with the functions below.
func comment(sql string) int {
	depth := 0
	for i := 0; i+1 < len(sql); i++ {
		switch sql[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			if depth--; depth == 0 {
				return i + 2
			}
			i++
		}
	}
	return 0
}

// quoted returns the length of the string or name that the text begins with. The quote is
// doubled within it.
func quoted(sql string, backslashes bool) int {
	for i := 1; i < len(sql); i++ {
		switch {
		case backslashes && sql[i] == '\\':
			i++
		case sql[i] != sql[0]:
		case i+1 < len(sql) && sql[i+1] == sql[0]:
			i++
		default:
			return i + 1
		}
	}
	return 0
}

// dollarQuoted returns the length of the string that the text begins with, as in $tag$…$tag$,
// or 1 if it is a parameter.
func dollarQuoted(sql string) int {
	n := 1
	if n < len(sql) && isLetter(sql[n]) {
		for n < len(sql) && (isLetter(sql[n]) || isDigit(sql[n])) {
			n++
		}
	}
	if n == len(sql) || sql[n] != '$' {
		return 1
	}
	tag := sql[:n+1]
	end := strings.Index(sql[len(tag):], tag)
	if end < 0 {
		return 0
	}
	return len(tag) + end + len(tag)
}
