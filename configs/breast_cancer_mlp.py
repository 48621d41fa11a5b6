"""MLP on 30 measurements of cell nuclei in a breast mass: benign or malignant. An exercise, not a
diagnostic device.

Command    python -m train --config=configs/breast_cancer_mlp.py --workdir=runs/breast_cancer_mlp
           python -m train.evaluate --workdir=runs/breast_cancer_mlp --split=test
           python -m train.evaluate --workdir=runs/breast_cancer_mlp --split=test --sensitivity=0.95
           python -m train.predict --workdir=runs/breast_cancer_mlp --top=2 ROWS.csv
Data       breast_cancer: the diagnostic data of Wisconsin that scikit-learn bundles (Street,
           Wolberg & Mangasarian 1993, SPIE 1905:861-870); 343 / 113 / 113 patients (train,
           validation, test), of whom 128 / 42 / 42 have cancer. Malignant is label 1, the positive
           class (scikit-learn's 0). The 30 columns, named in dataset.json, are standardised by the
           training split; ROWS.csv has them by these names
Measured   on the 113 test patients with seeds 0, 1, 2, and the 95% interval of seed 0 (Wilson; of
           the AUC DeLong's on the logit; of the Brier score by bootstrap):
           sensitivity 0.952, 0.976, 0.976 (0.842 to 0.987: 2, 1 and 1 of 42 cancers missed)
           specificity 1.000, 0.986, 1.000 (0.949 to 1.000: 0, 1 and 0 of 71 false alarms)
           ROC AUC 0.9963, 0.9956, 0.9963 (0.972 to 1.000)
           Brier score 0.0174, 0.0172, 0.0179 (0.005 to 0.038)
           expected calibration error, 10 bins of equal width (Guo et al. 2017, arXiv:1706.04599)
           0.035, 0.023, 0.040: a perfectly calibrated classifier would reach up to 0.053 with so
           few patients
           At the threshold with sensitivity 0.95 on the validation split (0.84, 0.83, 0.78):
           sensitivity 0.857, 0.905, 0.833 and specificity 1.000 on the test split. A threshold
           chosen on 42 cancers promises nothing. scikit-learn's logistic regression on the same
           split: sensitivity 0.976, specificity 1.000, ROC AUC 0.997, Brier score 0.0168: the
           network is no better
           2 seconds of training, half a minute in all on one shared core, 1,058 parameters
Chosen     weight decay, width and steps by the loss on the validation split, whose scores
           summary.json holds
Caveats    569 fine-needle aspirates from one centre in Wisconsin, of about 1990. The numbers are
           what one program computed from nuclei outlined with a person's help: other stains,
           scanners or programs give others. No age, history, imaging or palpation, as a clinician
           would have.
           All had a mass that was referred and sampled, and 37% had cancer: predictive values (and
           the calibration of the probabilities) are those of such a series and carry over to no
           other, least of all to screening. The test patients are a random part of the same series:
           no external validation, no later years, no other hospital. Intervals are sampling error
           alone, of 42 and 71 patients, and know nothing of all this.
           A diagnosis can itself be wrong, and who was given one at all selects the series;
           doubtful smears are where a classifier would be needed, and nothing says how many there
           are.
           A missed cancer is treated late, a false alarm costs a biopsy: 0.5 weighs both alike,
           which nobody would.
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="mlp",
        model_fields={"hidden_sizes": (32,), "dropout_rate": 0.2},
        data=DataConfig(name="breast_cancer", eval_split="validation"),
        optim=OptimConfig(name="adamw", learning_rate=3e-3, warmup_steps=20, weight_decay=0.3),
        checkpoint=CheckpointConfig(every=300),
        steps=600,
        batch_size=64,
        steps_per_execution=10,
        eval_batch_size=128,
        eval_every=150,
        log_every=50,
    )
