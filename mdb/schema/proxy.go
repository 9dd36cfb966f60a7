package schema

import (
	_ "embed" // the objects of a proxy
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

//go:embed proxy.sql
var proxyTemplate string

// ProxySQL returns the statements that make an empty database a proxy of shards, with the connection string of each
// shard in the order of their numbers. Each shard was made by [InstallShard] with its number. The proxy
// runs Message DB's functions on the shard of the category, by the language PL/Proxy.
//
// Run the statements with psql, as a superuser, in one transaction:
//
//	psql -1 -v ON_ERROR_STOP=1 -c '\getenv password SHARD_PASSWORD' -f proxy.sql
//
// They never contain the password with which the proxy connects to all shards as the role message_store, but the
// variable password of psql. It may be empty if the shards ask for none, or if it is in the password file of the
// proxy's server.
//
// The number of shards must be a power of two, and [ShardStride] at most, because PL/Proxy requires that. A connection string has
// key=value pairs, as libpq takes them, without a user and a password. A shard may be a cluster of servers:
// host=a,b target_session_attrs=read-write.
func ProxySQL(shards ...string) (string, error) {
	n := len(shards)
	if n == 0 || n&(n-1) != 0 || n > ShardStride {
		return "", fmt.Errorf("schema: got %d shards, want a power of two from 1 to %d: PL/Proxy requires that", n, ShardStride)
	}
	servers := make([]string, n)
	for i, shard := range shards {
		if err := checkShardString(shard); err != nil {
			return "", fmt.Errorf("schema: the connection string of shard %d: %w", i, err)
		}
		servers[i] = fmt.Sprintf("  p%d %s", i, quoteLiteral(shard))
	}
	var text strings.Builder
	text.WriteString(beginText)
	for _, name := range []string{"sql/1-role.sql", "sql/3-names.sql"} {
		sql, _ := files.ReadFile(name) // it is embedded
		text.WriteString(strings.TrimSpace(string(sql)) + "\n\n")
	}
	text.WriteString(strings.NewReplacer(
		"{servers}", strings.Join(servers, ",\n"),
		"{count}", strconv.Itoa(n),
		"{last}", strconv.Itoa(n-1),
	).Replace(proxyTemplate))
	return text.String() + "\n" + endText, nil
}

func quoteLiteral(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// checkShardString rejects what is no connection string of a shard. The error does not quote values, which may be secret.
func checkShardString(given string) error {
	if strings.Contains(given, "://") && !strings.Contains(strings.SplitN(given, "://", 2)[0], "=") {
		return errors.New("want key=value pairs, such as host=shard0 dbname=events, got a URL, which PL/Proxy does not take")
	}
	keys, err := connStringKeys(given)
	switch {
	case err != nil:
		return err
	case len(keys) == 0:
		return errors.New("want key=value pairs, such as host=shard0 dbname=events, got none")
	}
	for _, key := range keys {
		switch key {
		case "password", "sslpassword":
			return fmt.Errorf("it contains a %s, which users of the machine and of the proxy could see: pass it to psql, as the variable password", key)
		case "user":
			return errors.New("it contains a user: the proxy connects as message_store")
		}
	}
	return nil
}

// connStringKeys returns the keys of a list of key=value pairs, in which a backslash escapes a character, and quotes enclose a
// value with spaces.
func connStringKeys(text string) (keys []string, err error) {
	malformed := errors.New("want key=value pairs, in which single quotes enclose a value with spaces")
	rest := []rune(strings.TrimSpace(text))
	for len(rest) > 0 {
		key, after, ok := strings.Cut(string(rest), "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" || strings.ContainsFunc(key, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) }) {
			return nil, malformed
		}
		keys = append(keys, strings.ToLower(key))
		rest = []rune(strings.TrimLeftFunc(after, unicode.IsSpace))
		quoted := len(rest) > 0 && rest[0] == '\''
		if quoted {
			rest = rest[1:]
		}
		closed := !quoted
		i := 0
		for ; i < len(rest); i++ {
			if rest[i] == '\\' {
				i++
				continue
			}
			if quoted && rest[i] == '\'' {
				closed = true
				break
			}
			if !quoted && unicode.IsSpace(rest[i]) {
				break
			}
		}
		if !closed {
			return nil, malformed
		}
		rest = []rune(strings.TrimLeftFunc(string(rest[min(i+1, len(rest)):]), unicode.IsSpace))
	}
	return keys, nil
}
