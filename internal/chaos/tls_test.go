package chaos

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // in PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(t.TempDir(), "ca.pem")}
	a.key = newKey(t)
	a.cert = sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour),
	}, nil, a.key, a.key)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	if err := os.WriteFile(a.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if parent == nil {
		parent = template
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// server returns the TLS configuration of a server with the given name.
func (a *authority) server(t *testing.T, name string, end time.Time) *tls.Config {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: end.Add(-24 * time.Hour), NotAfter: end,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	cert := sign(t, template, a.cert, key, a.key)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
}

// TestVerifyFull checks that with sslmode=verify-full a server that cannot prove its
// identity receives nothing: no user, no database and no password.
func TestVerifyFull(t *testing.T) {
	target := database(t)
	good, other := newAuthority(t), newAuthority(t)
	soon := time.Now().Add(time.Hour)
	for _, tt := range []struct {
		name string
		tls  *tls.Config
		want string // in the error; "": it connects
	}{
		{"right", good.server(t, "127.0.0.1", soon), ""},
		{"another authority", other.server(t, "127.0.0.1", soon), "unknown authority"},
		{"another host", good.server(t, "example.org", soon), "127.0.0.1"},
		{"expired", good.server(t, "127.0.0.1", time.Now().Add(-time.Hour)), "expired"},
		{"no TLS", nil, "TLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProxy(t, target)
			p.tls = tt.tls
			u, err := url.Parse(p.url())
			if err != nil {
				t.Fatal(err)
			}
			u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {good.file}}.Encode()
			s, err := mdb.Connect(t.Context(), u.String())
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if _, err := s.WriteMessage(t.Context(), "tls-1", mdb.NewMessage("Happened", nil)); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				s.Close()
				t.Fatal("connected to the wrong server")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
			checkCanaries(t, err.Error())
			if p.accepted.Load() == 0 || p.startups.Load() != 0 {
				t.Errorf("%d connections and %d start-up messages, want no start-up message", p.accepted.Load(), p.startups.Load())
			}
		})
	}
}
