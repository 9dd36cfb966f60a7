package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbweb"
)

var webCommand = command{
	name:  "web",
	args:  []string{""},
	short: "serve pages that show the store and its consumers to a browser",
	long: `Serves pages that show streams, messages with their causes and effects, new messages
as they are written, types, throughput, health, and consumers with what they have parked.
It prints the address, and ends when it is interrupted.

The pages are read-only, and so are the transactions of their connections, unless -write
lets users replay and skip what consumers have parked. Each such action is logged.

It listens on this machine only. For another address it needs a token, which users type
into a form, and a certificate, unless -insecure does without TLS. The token comes from
the variable MDB_WEB_TOKEN or from a file; it has at least 16 characters. Browsers use
the name or address in -listen, or a name given by -host.`,
	examples: `mdb web
mdb web -listen 127.0.0.1:0 -write
mdb web -listen 10.0.0.5:8443 -token-file token -cert cert.pem -key key.pem
mdb web -listen :8443 -host store.example.com -token-file token -cert cert.pem -key key.pem`,
	setup: func(fs *flag.FlagSet) action {
		var w website
		w.declare(fs)
		return func(ctx context.Context, a *app, args []string) error {
			if _, err := exactly(args); err != nil {
				return err
			}
			if err := w.check(a); err != nil {
				return err
			}
			return a.withStore(ctx, func(s *mdb.Store) error { return w.serve(ctx, a, s) })
		}
	},
}

// A website is the options of mdb web.
type website struct {
	listen, tokenFile, cert, key string
	hosts                        []string
	write, insecure              bool

	token       string
	certificate *tls.Certificate
}

func (w *website) declare(fs *flag.FlagSet) {
	fs.StringVar(&w.listen, "listen", "127.0.0.1:8090", "the `ADDRESS` and port to listen on; port 0 is any free one")
	fs.BoolVar(&w.write, "write", false, "let users replay and skip what consumers have parked")
	fs.StringVar(&w.tokenFile, "token-file", "", "the `FILE` with the token, instead of MDB_WEB_TOKEN")
	fs.StringVar(&w.cert, "cert", "", "the `FILE` with the certificate, in PEM")
	fs.StringVar(&w.key, "key", "", "the `FILE` with its key, in PEM")
	fs.BoolVar(&w.insecure, "insecure", false, "do without TLS for other machines, which lets others on the network read everything")
	fs.Func("host", "a `NAME` that browsers may use for this server; can be repeated", func(given string) error {
		w.hosts = append(w.hosts, given)
		return nil
	})
}

// check checks the options before anything is opened.
func (w *website) check(a *app) error {
	host, _, err := net.SplitHostPort(w.listen)
	if err != nil {
		return usage("-listen: want an address and a port, such as 127.0.0.1:8090, got %q", w.listen)
	}
	w.token = a.env("MDB_WEB_TOKEN")
	if w.tokenFile != "" {
		content, err := os.ReadFile(w.tokenFile)
		if err != nil {
			return usage("-token-file: %v", err)
		}
		w.token = strings.TrimSpace(string(content))
		if w.token == "" {
			return usage("-token-file: the file is empty")
		}
	}
	if w.token != "" && len(w.token) < mdbweb.MinToken {
		return usage("the token has %d characters, want at least %d", len(w.token), mdbweb.MinToken)
	}
	if (w.cert == "") != (w.key == "") {
		return usage("-cert and -key belong together")
	}
	if w.cert != "" {
		certificate, err := tls.LoadX509KeyPair(w.cert, w.key)
		if err != nil {
			return usage("-cert and -key: %v", err)
		}
		w.certificate = &certificate
	}
	addr, err := netip.ParseAddr(host)
	if host == "localhost" || err == nil && addr.IsLoopback() {
		return nil
	}
	switch {
	case w.token == "":
		return usage("-listen %s: other machines can connect to it, so it needs a token: set MDB_WEB_TOKEN or -token-file", w.listen)
	case w.certificate == nil && !w.insecure:
		return usage("-listen %s: other machines can connect to it, so it needs -cert and -key; -insecure does without", w.listen)
	}
	if host != "" && (err != nil || !addr.IsUnspecified()) {
		w.hosts = append(w.hosts, host)
	}
	return nil
}

func (w *website) options(a *app) []mdbweb.Option {
	opts := []mdbweb.Option{mdbweb.WithHosts(w.hosts...), mdbweb.WithLogger(slog.New(slog.NewTextHandler(a.stderr, nil)))}
	if w.token != "" {
		opts = append(opts, mdbweb.WithToken(w.token))
	}
	if w.write {
		opts = append(opts, mdbweb.WithWrites())
	}
	if w.insecure {
		opts = append(opts, mdbweb.Insecure())
	}
	if a.pooler {
		opts = append(opts, mdbweb.BehindPooler())
	}
	return opts
}

const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 5 * time.Second
	maxHeader     = 1 << 16
)

// serve serves the pages until ctx ends.
func (w *website) serve(ctx context.Context, a *app, s *mdb.Store) error {
	pages, err := mdbweb.New(s, w.options(a)...) //nolint:contextcheck // it opens no connection
	if err != nil {
		return err
	}
	defer pages.Close()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", w.listen)
	if err != nil {
		return err
	}
	scheme := "http"
	if w.certificate != nil {
		scheme = "https"
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{*w.certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	// Live tails set deadlines of their own, so there is none for all responses.
	server := &http.Server{
		Handler: pages, ReadHeaderTimeout: headerTimeout, ReadTimeout: time.Minute, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(slog.NewTextHandler(a.stderr, nil), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if err := a.say("%s\n", w.address(scheme, listener.Addr())); err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	pages.Close() // ends the live tails, for which Shutdown would wait
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		return server.Close()
	}
	return nil
}

// address returns the URL for a browser.
func (w *website) address(scheme string, listening net.Addr) string {
	_, port, _ := net.SplitHostPort(listening.String())
	host, _, _ := net.SplitHostPort(w.listen)
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		first := ""
		if len(w.hosts) > 0 {
			first = w.hosts[0]
		}
		host = cmp.Or(first, "localhost")
	}
	return fmt.Sprintf("%s://%s/", scheme, net.JoinHostPort(host, port))
}
