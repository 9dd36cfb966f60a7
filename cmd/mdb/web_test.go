package main_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// get reads a page of a running mdb web.
func get(t *testing.T, client *http.Client, url string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

// TestWeb checks that mdb web serves pages until it is interrupted, which also ends live tails, and that it is read-only unless -write
// is given.
func TestWeb(t *testing.T) {
	t.Parallel()
	for args, mode := range map[string]string{"": "read-only", "-write": "can write"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			write(t, connect(t, url), "order-1", "Placed")
			p := start(t, url, append([]string{"web", "-listen", "127.0.0.1:0"}, strings.Fields(args)...)...)
			address := p.line(t)
			if status, body := get(t, http.DefaultClient, address+"messages"); status != http.StatusOK || !strings.Contains(body, "order-1") || !strings.Contains(body, mode) {
				t.Errorf("status %d: %s", status, body)
			}
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"live/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			tail, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer tail.Body.Close()
			p.interrupt(t, os.Interrupt)
			if _, err := io.ReadAll(tail.Body); err != nil {
				t.Errorf("the live tail: %v", err)
			}
			p.end(t, 0)
		})
	}
}

// TestWebForOthers checks that mdb web serves other machines with TLS and a form for the token, which it does not print.
func TestWebForOthers(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	const token = "a token of a test"
	cert, key, roots := certificate(t, folder)
	if err := os.WriteFile(filepath.Join(folder, "token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, testdb.New(t), "web", "-listen", "0.0.0.0:0", "-host", "store.example.com", "-cert", cert, "-key", key, "-token-file", filepath.Join(folder, "token"))
	address := p.line(t)
	_, port, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(address, "https://"), "/"), ":")
	if !strings.HasPrefix(address, "https://store.example.com:") || port == "" {
		t.Errorf("printed %s", address)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
		},
	}}
	defer client.CloseIdleConnections()
	if status, body := get(t, client, address); status != http.StatusOK || !strings.Contains(body, `name="token"`) {
		t.Errorf("status %d: %s", status, body)
	}
	if status, _ := get(t, client, strings.Replace(address, "store.example.com", "127.0.0.1", 1)+"static/absent.css"); status != http.StatusNotFound {
		t.Errorf("the address: status %d", status)
	}
	client.CloseIdleConnections()
	p.interrupt(t, os.Interrupt)
	if stderr := p.end(t, 0); strings.Contains(stderr, token) {
		t.Errorf("printed the token: %s", stderr)
	}
}

// TestWebExamples checks that the examples of the help serve pages, at addresses of this machine.
func TestWebExamples(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	certificate(t, folder)
	if err := os.WriteFile(filepath.Join(folder, "token"), []byte("a token of a test"), 0o600); err != nil {
		t.Fatal(err)
	}
	help, _ := (&shell{env: environment()}).run(t, "mdb help web")
	_, examples, ok := strings.Cut(help, "\nExamples:\n")
	if !ok {
		t.Fatalf("no examples:\n%s", help)
	}
	here := strings.NewReplacer("10.0.0.5:8443", "0.0.0.0:0", " :8443", " :0", "-token-file token", "-token-file "+folder+"/token", "cert.pem", folder+"/cert.pem", "key.pem", folder+"/key.pem")
	url := testdb.New(t)
	for example := range strings.Lines(examples) {
		args := strings.Fields(here.Replace(example))[1:]
		if len(args) == 1 {
			args = append(args, "-listen", "127.0.0.1:0")
		}
		p := start(t, url, args...)
		if address := p.line(t); !strings.HasPrefix(address, "http") {
			t.Errorf("%s: printed %s", example, address)
		}
		p.interrupt(t, os.Interrupt)
		p.end(t, 0)
	}
}

// certificate writes a certificate and its key.
func certificate(t *testing.T, folder string) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"store.example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return cert, key, roots
}
