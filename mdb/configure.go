package mdb

import (
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A ConnectOption configures [Connect]: a [StoreOption] or a [ConfigureOption].
type ConnectOption interface{ connect(*connectConfig) }

type connectConfig struct {
	store     []StoreOption
	configure []ConfigureOption
	replica   *string // see ConnectReplica
}

// StoreOptions are options that are passed on as one, such as those that a function has
// received and passes to [Connect].
type StoreOptions []StoreOption

func (o StoreOptions) store(c *storeConfig) {
	for _, opt := range o {
		opt.store(c)
	}
}

func (o StoreOptions) connect(c *connectConfig)    { c.store = append(c.store, o...) }
func (o storeOption) connect(c *connectConfig)     { c.store = append(c.store, o) }
func (o pollingOption) connect(c *connectConfig)   { c.store = append(c.store, o) }
func (o configureOption) connect(c *connectConfig) { c.configure = append(c.configure, o) }

// A ConfigureOption configures [Configure].
type ConfigureOption interface {
	ConnectOption
	configure(*configureConfig)
}

type configureConfig struct {
	storeFirst, pooler bool
}

type configureOption func(*configureConfig)

func (o configureOption) configure(c *configureConfig) { o(c) }

func newConfigureConfig(opts []ConfigureOption) (c configureConfig) {
	for _, opt := range opts {
		opt.configure(&c)
	}
	return c
}

// StoreFirst puts the schema message_store first in the search path, and pg_temp last. The
// functions of Message DB's own script need this, because they do not name their schema.
// Those that package schema installs, and those that schema.PinSearchPath has changed, do
// not. [Connect] finds out by itself whether it is needed.
//
// Between the two is the path in the configuration, or else the server's default. It
// overrides a path that is set on the role or the database. With it, an unqualified CREATE
// TABLE creates the table in the schema message_store, so name the schemas of your own
// tables.
func StoreFirst() ConfigureOption {
	return configureOption(func(c *configureConfig) { c.storeFirst = true })
}

// BehindPooler is for PgBouncer, in session or transaction mode, and poolers like it. They
// reject start-up parameters that they do not track, so only client_encoding, DateStyle and
// standard_conforming_strings are set. If the pool's DefaultQueryExecMode is pgx's default,
// it becomes pgx.QueryExecModeExec, which needs no prepared statements. If the pooler
// supports these (PgBouncer does since 1.21, with max_prepared_statements), set
// pgx.QueryExecModeCacheStatement after Configure, or default_query_exec_mode=cache_statement
// in the connection string of [Connect].
//
// Set the rest on the role, with ALTER ROLE, as docs/production.md says. BehindPooler
// overrides [StoreFirst].
func BehindPooler() ConfigureOption {
	return configureOption(func(c *configureConfig) { c.pooler = true })
}

// conditionSetting is the setting that allows conditions in SQL while it is on.
const conditionSetting = "message_store.sql_condition"

// defaultConnectTimeout is long enough for a server that is up, also in another region: it
// answers within a few round trips.
const defaultConnectTimeout = 2 * time.Second

// setTimeouts sets the timeouts that are not given. pgx does not distinguish connect_timeout=0
// from none.
func setTimeouts(cfg *pgxpool.Config) {
	if cfg.ConnConfig.ConnectTimeout <= 0 {
		cfg.ConnConfig.ConnectTimeout = defaultConnectTimeout
	}
	if cfg.PingTimeout <= 0 {
		cfg.PingTimeout = defaultConnectTimeout
	}
}

// Configure prepares the configuration of a pool for Message DB: it sets timeouts, start-up
// parameters, and functions by which a [Store] observes its connections. It wraps functions
// that are there already, so set your own before you call it. It does not change the search
// path, unless [StoreFirst] says so. With a pooler, pass [BehindPooler].
//
// The timeouts, unless the configuration contains them, for example by connect_timeout and
// pool_ping_timeout in the connection string:
//
//   - ConnectTimeout: 2 seconds, for each address of each host in turn. pgxpool's default is two
//     minutes, during which a host that does not answer can occupy all connections of the
//     pool, although another host would answer. connect_timeout=0 counts as none;
//   - PingTimeout: 2 seconds. pgxpool's default is none.
//
// The start-up parameters, which need no round trip, survive RESET and DISCARD ALL, and override
// what is set on the role or the database:
//
//   - client_encoding: UTF8, without which text is stored wrongly, and
//     standard_conforming_strings: on, which pgx requires;
//   - DateStyle: ISO, in which pgx reads times. A value in the configuration that begins
//     with ISO, such as "ISO, DMY", is kept;
//   - array_nulls: on, for batches of messages without data;
//   - message_store.sql_condition: off;
//   - tcp_keepalives_idle, tcp_keepalives_interval, tcp_keepalives_count and
//     tcp_user_timeout, unless the configuration contains them. With them the server ends a
//     session whose client has disappeared from the network after about a minute, instead
//     of two hours, for which it may keep a category locked. They have no effect on Unix
//     sockets.
//
// The functions:
//
//   - OnNotice of the ConnConfig, which receives the notice that a wait for a synchronous
//     standby was cancelled;
//   - DialFunc and AfterNetConnect, whose connections show whether bytes arrive during a
//     statement, and can be closed without a cancel request. The method NetConn of such a
//     connection returns what is wrapped, for example a *tls.Conn.
func Configure(cfg *pgxpool.Config, opts ...ConfigureOption) {
	c := newConfigureConfig(opts)
	setTimeouts(cfg)
	if cfg.ConnConfig.RuntimeParams == nil {
		cfg.ConnConfig.RuntimeParams = make(map[string]string)
	}
	cfg.ConnConfig.OnNotice = markCancelledWaits(cfg.ConnConfig.OnNotice)
	params := parameters(cfg.ConnConfig.RuntimeParams)
	params.setEncoding()
	if !strings.HasPrefix(strings.ToUpper(params.get("DateStyle")), "ISO") {
		style := "ISO"
		if c.pooler {
			style = "ISO, MDY" // as the server reports it, so that PgBouncer sees no difference
		}
		params.set("DateStyle", style)
	}
	params.set("standard_conforming_strings", "on")
	observe(cfg.ConnConfig)
	if c.pooler {
		if cfg.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
			cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		}
		return
	}
	params.set("array_nulls", "on")
	params.set(conditionSetting, "off")
	params.setKeepalives()
	if c.storeFirst {
		path, ok := params.searchPath()
		if !ok {
			path = `"$user", public`
		}
		params.set("search_path", storeFirst(path))
	}
}

// parameters are start-up parameters, whose names the server compares without regard to
// case.
type parameters map[string]string

func (p parameters) find(name string) (key string, ok bool) {
	for key := range p {
		if strings.EqualFold(key, name) {
			return key, true
		}
	}
	return "", false
}

func (p parameters) get(name string) string {
	key, _ := p.find(name)
	return p[key]
}

// set leaves no other spelling of the name, which the server might read after ours.
func (p parameters) set(name, value string) {
	for key, ok := p.find(name); ok; key, ok = p.find(name) {
		delete(p, key)
	}
	p[name] = value
}

func (p parameters) setDefault(name, value string) {
	if _, ok := p.find(name); !ok {
		p[name] = value
	}
}

// setEncoding makes the server send and receive UTF-8, as pgx does without asking.
func (p parameters) setEncoding() { p.set("client_encoding", "UTF8") }

// setKeepalives makes the server notice within a minute that the client's machine is gone:
// after 30 seconds of silence it asks three times, ten seconds apart. The timeout is for
// data that it has sent.
func (p parameters) setKeepalives() {
	p.setDefault("tcp_keepalives_idle", "30")
	p.setDefault("tcp_keepalives_interval", "10")
	p.setDefault("tcp_keepalives_count", "3")
	p.setDefault("tcp_user_timeout", "60000")
}

// searchPath returns the path in the parameters, of which options may contain one.
func (p parameters) searchPath() (path string, ok bool) {
	if key, ok := p.find("search_path"); ok {
		return p[key], true
	}
	words := splitOptions(p.get("options"))
	for i, word := range words {
		switch setting, short := strings.CutPrefix(word, "-c"); {
		case short && setting == "" && i+1 < len(words):
			word = words[i+1]
		case short:
			word = setting
		default:
			word = strings.TrimPrefix(word, "--")
		}
		if name, value, found := strings.Cut(word, "="); found && strings.EqualFold(strings.ReplaceAll(name, "-", "_"), "search_path") {
			path, ok = value, true // the last one wins
		}
	}
	return path, ok
}

// splitOptions splits the parameter options as the server does: at whitespace, unless a
// backslash is before it.
func splitOptions(options string) []string {
	var words []string
	word, inWord := "", false
	for i := 0; i < len(options); i++ {
		switch b := options[i]; {
		case strings.IndexByte(" \t\n\r\v\f", b) >= 0:
			if inWord {
				words = append(words, word)
			}
			word, inWord = "", false
		case b == '\\' && i+1 < len(options):
			i++
			fallthrough
		default:
			word += options[i : i+1]
			inWord = true
		}
	}
	if inWord {
		words = append(words, word)
	}
	return words
}

// storeFirst returns the path with message_store first and pg_temp last, so that a temporary
// table cannot hide the table messages.
func storeFirst(path string) string {
	schemas := []string{"message_store"}
	quoted := false
	for schema := range strings.FieldsFuncSeq(path, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	}) {
		switch schema = strings.TrimSpace(schema); schema {
		case "", `""`, "message_store", `"message_store"`, "pg_temp":
		default:
			schemas = append(schemas, schema)
		}
	}
	return strings.Join(slices.Concat(schemas, []string{"pg_temp"}), ", ")
}
