// An application built on golang.org/x/oauth2 and github.com/coreos/go-oidc; what it found is a line of JSON for
// `strict_clients/languages.rs`.
//
//	client <JSON with issuer, client_id, client_secret, redirect_uri>
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

type told struct {
	Issuer       string `json:"issuer"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	RedirectURI  string `json:"redirect_uri"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var told told
	if err := json.Unmarshal([]byte(os.Args[len(os.Args)-1]), &told); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, told.Issuer)
	if err != nil {
		return err
	}
	config := oauth2.Config{
		ClientID:     told.ClientID,
		ClientSecret: told.ClientSecret,
		RedirectURL:  told.RedirectURI,
		Endpoint:     provider.Endpoint(),
		Scopes:       []string{oidc.ScopeOpenID, "profile", oidc.ScopeOfflineAccess},
	}

	verifier, state, nonce := oauth2.GenerateVerifier(), oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	address := config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier),
		oauth2.SetAuthURLParam("prompt", "consent"))
	answer, err := comeBack(address)
	if err != nil {
		return err
	}
	if answer.Get("state") != state || answer.Get("iss") != told.Issuer {
		return fmt.Errorf("an answer to another request: %v", answer)
	}
	token, err := config.Exchange(ctx, answer.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		return err
	}
	id, err := verify(ctx, provider, told.ClientID, token, nonce)
	if err != nil {
		return err
	}
	_, elsewhere := verify(ctx, provider, "somebody-else", token, nonce)

	info, err := provider.UserInfo(ctx, config.TokenSource(ctx, token))
	if err != nil {
		return err
	}
	var claims struct {
		Name string `json:"preferred_username"`
	}
	if err := info.Claims(&claims); err != nil {
		return err
	}
	if info.Subject != id.Subject {
		return fmt.Errorf("userinfo of %s for %s", info.Subject, id.Subject)
	}

	// The library gets a new access token when the old one has ended.
	refreshed, err := config.TokenSource(ctx, ended(token)).Token()
	if err != nil {
		return err
	}
	if refreshed.AccessToken == token.AccessToken || refreshed.RefreshToken == "" {
		return errors.New("it was not refreshed")
	}
	_, again := config.Exchange(ctx, answer.Get("code"), oauth2.VerifierOption(verifier))
	_, after := config.TokenSource(ctx, ended(refreshed)).Token()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"name":      claims.Name,
		"bound":     id.VerifyAccessToken(token.AccessToken) == nil,
		"elsewhere": elsewhere != nil,
		"again":     code(again),
		"after":     code(after),
	})
}

// verify checks the ID token.
func verify(ctx context.Context, provider *oidc.Provider, client string, token *oauth2.Token, nonce string) (*oidc.IDToken, error) {
	raw, _ := token.Extra("id_token").(string)
	id, err := provider.Verifier(&oidc.Config{ClientID: client}).Verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	if id.Nonce != nonce {
		return nil, errors.New("an ID token for another request")
	}
	return id, nil
}

func ended(token *oauth2.Token) *oauth2.Token {
	return &oauth2.Token{RefreshToken: token.RefreshToken, Expiry: time.Now().Add(-time.Hour)}
}

// code is the error code that a request is refused with.
func code(err error) string {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		return refused.ErrorCode
	}
	return fmt.Sprint(err)
}

// comeBack sends the user's browser to the address and waits for it; the parameters it came back with.
func comeBack(address string) (url.Values, error) {
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"open": address}); err != nil {
		return nil, err
	}
	line := bufio.NewScanner(os.Stdin)
	if !line.Scan() {
		return nil, fmt.Errorf("the browser did not come back: %w", line.Err())
	}
	callback, err := url.Parse(line.Text())
	if err != nil {
		return nil, err
	}
	return callback.Query(), nil
}
