package mdbweb

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// Defaults of the options.
const (
	// DefaultMaxQueries is the default of [MaxQueries].
	DefaultMaxQueries = 4
	// DefaultMaxTails is the default of [MaxTails].
	DefaultMaxTails = 8
	// DefaultStatementTimeout is the default of [StatementTimeout].
	DefaultStatementTimeout = 5 * time.Second
)

// MinToken is the length of the shortest token that [WithToken] accepts. Nobody can guess a random one of this length.
const MinToken = 16

// An Option configures [New].
type Option func(*config)

type config struct {
	prefix   string
	hosts    []string
	token    string
	user     func(*http.Request) string
	insecure bool
	writes   bool
	pooler   bool
	redact   func(mdb.Message) mdb.Message
	logger   *slog.Logger
	queries  int
	tails    int
	timeout  time.Duration
	faults   []mdb.Fault
}

func (c *config) fault(argument, given, allowed string) {
	c.faults = append(c.faults, mdb.Fault{Argument: argument, Given: given, Allowed: allowed})
}

// WithPrefix sets the path under which the handler is mounted, such as "/mdb". The handler
// receives paths that include it: do not strip it. The default is the root.
func WithPrefix(path string) Option {
	return func(c *config) {
		if path != "" && (!strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?#%{}\\ \"'<>") || strings.Contains(path, "//") || strings.Contains(path, "..")) {
			c.fault("prefix", strconv.Quote(path), `a path such as "/mdb"`)
			return
		}
		c.prefix = strings.TrimSuffix(path, "/")
	}
}

// WithHosts allows requests for other hosts than localhost and the loopback addresses. Requests
// for any other host are rejected, because a hostile site could let its name resolve to the
// address of the server and read the pages in the browser of a visitor (DNS rebinding). A host is a
// name or an address without a port.
func WithHosts(hosts ...string) Option {
	return func(c *config) {
		for _, host := range hosts {
			if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.ContainsAny(host, ":/[]@ *")) {
				c.fault("host", strconv.Quote(host), "a name or an address without a port")
				continue
			}
			c.hosts = append(c.hosts, strings.ToLower(host))
		}
	}
}

// WithToken lets those in who know the token, from any address. They type it into a form, and
// get a cookie that is valid for twelve hours. A new token ends all sessions. It has at least [MinToken] characters.
func WithToken(token string) Option {
	return func(c *config) {
		if len(token) < MinToken {
			c.fault("token", fmt.Sprintf("one of %d characters", len(token)), fmt.Sprintf("at least %d characters", MinToken))
		}
		c.token = token
	}
}

// WithUser lets those in whom a handler of the caller's in front has authenticated. The function returns
// the name of the user, for the log, or "" to reject the request. Do not take the name from a header
// that clients can send themselves.
func WithUser(user func(r *http.Request) string) Option {
	return func(c *config) {
		if user == nil {
			c.fault("user", "nil", "a function")
		}
		c.user = user
	}
}

// Insecure sends the cookie of [WithToken] without TLS, too. Everybody on the network can read it then.
func Insecure() Option { return func(c *config) { c.insecure = true } }

// WithWrites lets users replay and skip what consumers have parked. Each such action is logged with the
// user. It uses the pool of the caller's store. Without the option there is no way to change
// anything: the handler does not use that pool.
func WithWrites() Option { return func(c *config) { c.writes = true } }

// BehindPooler is for a store whose pool connects through PgBouncer, see [mdb.BehindPooler]. Then
// the statements of pages are in read-only transactions with a timeout, and those of live tails are not,
// because a pooler does not accept these settings for a connection. Use a role that may only read.
func BehindPooler() Option { return func(c *config) { c.pooler = true } }

// Redact sets a function that changes messages before they are shown, for example to hide
// personal data. Of what it returns, only Data and Metadata are used. It is called by several
// goroutines. Names of streams, types, positions and times are shown in any case, and so are the errors
// that consumers store with what they park.
func Redact(f func(mdb.Message) mdb.Message) Option {
	return func(c *config) {
		if f == nil {
			c.fault("redact", "nil", "a function")
		}
		c.redact = f
	}
}

// WithLogger sets where actions that write, logins and failures are logged. The default is
// [slog.Default]. Payloads are not logged.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) {
		if l == nil {
			c.fault("logger", "nil", "a *slog.Logger")
			return
		}
		c.logger = l
	}
}

// MaxQueries limits the connections of the handler's own pool, and so the statements that run
// at the same time. Requests beyond it wait for a while, and are then rejected with status 503. The default is
// [DefaultMaxQueries].
func MaxQueries(n int) Option {
	return func(c *config) {
		if n < 1 {
			c.fault("queries", strconv.Itoa(n), "at least 1")
		}
		c.queries = n
	}
}

// MaxTails limits the live tails at the same time. The default is [DefaultMaxTails].
func MaxTails(n int) Option {
	return func(c *config) {
		if n < 0 {
			c.fault("tails", strconv.Itoa(n), "0 or more")
		}
		c.tails = n
	}
}

// StatementTimeout sets the statement_timeout of the handler's own pool. The default is
// [DefaultStatementTimeout].
func StatementTimeout(d time.Duration) Option {
	return func(c *config) {
		if d < time.Millisecond {
			c.fault("statement timeout", d.String(), "at least 1ms")
		}
		c.timeout = d
	}
}

func newConfig(store *mdb.Store, opts []Option) (config, error) {
	c := config{logger: slog.Default(), queries: DefaultMaxQueries, tails: DefaultMaxTails, timeout: DefaultStatementTimeout}
	if store == nil {
		c.fault("store", "nil", "a *mdb.Store")
	}
	for _, opt := range opts {
		if opt != nil {
			opt(&c)
		}
	}
	if c.token != "" && c.user != nil {
		c.fault("WithUser", "together with WithToken", "one of the two")
	}
	if len(c.faults) > 0 {
		return c, &mdb.ArgumentError{Faults: c.faults}
	}
	return c, nil
}
