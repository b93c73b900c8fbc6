"""Small trained models that ship with npgpt; README.md says what each is."""
