package mdb

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// parseConnString returns the configuration of a pool, or what is wrong with the connection
// string. That does not quote the string, which may contain a password.
func parseConnString(connString string) (cfg *pgxpool.Config, fault string) {
	if fault := connStringFault(connString); fault != "" {
		return nil, fault
	}
	cfg, err := pgxpool.ParseConfig(connString)
	if err != nil {
		return nil, parseFault(connString, err)
	}
	return cfg, configFault(cfg.ConnConfig)
}

func connStringError(fault string) error {
	return fmt.Errorf("mdb: invalid connection string: %s", fault)
}

// choosesExecMode reports whether a connection string that can be parsed contains the exec
// mode. pgx's own configuration does not tell the default from a choice of the same.
func choosesExecMode(connString string) bool {
	cfg, err := pgconn.ParseConfig(connString)
	if err != nil {
		return false
	}
	_, ok := cfg.RuntimeParams["default_query_exec_mode"]
	return ok
}

const (
	encodeAdvice = "percent-encode special characters of the user and the password, such as @ as %40 and / as %2F"
	atFault      = "it contains an @ that does not separate the password from the host: " + encodeAdvice + ", also in the values of parameters"
)

// textParameters are those parameters of a URL whose values may contain an @.
var textParameters = []string{
	"user", "password", "passfile", "sslpassword", "application_name", "fallback_application_name", "options",
	"host", "dbname", "database", "sslcert", "sslkey", "sslrootcert", "service", "servicefile", "krbspn",
}

// urlRest returns what follows the scheme and the user and password of a URL, where the
// parser sees their end: at the first @ before a slash.
func urlRest(connString string) (rest string, userinfo, ok bool) {
	rest, ok = strings.CutPrefix(connString, "postgres://")
	if !ok {
		rest, ok = strings.CutPrefix(connString, "postgresql://")
	}
	if i := strings.IndexAny(rest, "@/"); ok && i >= 0 && rest[i] == '@' {
		return rest[i+1:], true, true
	}
	return rest, false, ok
}

// connStringFault returns why a connection string must not be used although it may be
// parsed, or "". A password that is not encoded may end in the middle, and the parser takes
// its rest for a host, a database or a parameter, all of which are looked up and printed.
func connStringFault(connString string) string {
	rest, _, ok := urlRest(connString)
	if !ok {
		return ""
	}
	address, query, _ := strings.Cut(rest, "?")
	if strings.Contains(address, "@") {
		return atFault
	}
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if strings.Contains(pair, "@") && !slices.Contains(textParameters, key) {
			return atFault
		}
	}
	return ""
}

// configFault returns what is wrong with a configuration that was parsed, or "". A URL may
// have been put where a host or a database is expected, also by the environment.
func configFault(cfg *pgx.ConnConfig) string {
	hosts := []string{cfg.Host}
	for _, fallback := range cfg.Fallbacks {
		hosts = append(hosts, fallback.Host)
	}
	for _, host := range hosts {
		if strings.HasPrefix(host, "/") {
			continue // the directory of a Unix socket
		}
		if strings.Contains(host, "://") || strings.ContainsAny(host, " \t\r\n") || strings.LastIndexByte(host, '@') > 0 {
			return "the host is not the name or address of a host: " + encodeAdvice
		}
	}
	for what, value := range map[string]string{"the database": cfg.Database, "the user": cfg.User} {
		_, after, colon := strings.Cut(value, ":")
		if strings.Contains(value, "://") || colon && strings.Contains(after, "@") {
			return what + " is not a name, but a connection string"
		}
	}
	for name := range cfg.RuntimeParams {
		if !isParameterName(name) {
			return "the name of a parameter contains a character that no name contains: put a value with spaces or quotes into quotes"
		}
	}
	return ""
}

// isParameterName reports whether a setting of the server may have the name.
func isParameterName(name string) bool {
	for i := range len(name) {
		b := name[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '_' || b >= 0x80
		if !letter && (i == 0 || (b < '0' || b > '9') && b != '$' && b != '.') {
			return false
		}
	}
	return name != ""
}

// parameterNames are those parameters whose values the parsers check.
var parameterNames = []string{
	"sslmode", "sslcertmode", "sslnegotiation", "connect_timeout", "target_session_attrs", "default_query_exec_mode",
	"statement_cache_capacity", "description_cache_capacity",
	"pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime_jitter", "pool_max_conn_lifetime",
	"pool_max_conn_idle_time", "pool_health_check_period", "pool_ping_timeout",
	"min_protocol_version", "max_protocol_version", "channel_binding", "require_auth", "sslrootcert", "sslcert", "sslkey",
}

// parseFault returns the parser's reason in words that cannot quote a part of the
// connection string that may be secret.
func parseFault(connString string, err error) string {
	reason := err.Error()
	if i := strings.LastIndex(reason, "`: "); i >= 0 {
		reason = reason[i+len("`: "):] // before it is the connection string
	}
	switch {
	case strings.HasPrefix(reason, "failed to parse as URL"):
		return "it is not a valid URL: " + encodeAdvice
	case strings.HasPrefix(reason, "failed to parse as keyword/value"):
		return "want a URL that begins with postgres:// or a list of key=value pairs, in which quotes enclose a value with spaces"
	case strings.HasPrefix(reason, "failed to read service"):
		return "the service cannot be read from the service file"
	case strings.HasPrefix(reason, "invalid port"):
		return "the port" + quotedPort(connString) + " is not a number from 1 to 65535"
	case strings.HasPrefix(reason, "could not match"):
		return "it has a port for some of its hosts only"
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return "a file of the TLS configuration (sslrootcert, sslcert, sslkey) cannot be read: " + pathErr.Err.Error()
	}
	for _, name := range parameterNames {
		if strings.Contains(reason, name) {
			return "the value of " + name + " is invalid"
		}
	}
	return "it cannot be parsed"
}

// quotedPort returns the port of a URL, if it cannot be a part of the password, because that
// has ended before.
func quotedPort(connString string) string {
	rest, userinfo, _ := urlRest(connString)
	if !userinfo {
		return ""
	}
	address, _, _ := strings.Cut(rest, "?")
	address, _, _ = strings.Cut(address, "/")
	_, port, found := strings.Cut(address, ":")
	if !found || strings.ContainsAny(port, ",:[]") {
		return ""
	}
	return fmt.Sprintf(" %q", port)
}
